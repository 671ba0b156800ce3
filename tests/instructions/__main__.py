"""``python -m tests.instructions``: see ``--help``."""

import argparse
import shutil
import sys
from pathlib import Path

from .callgrind import CountError, count
from .comparison import compare
from .reference import KEPT, Reference, reference_of


def main() -> None:
    options = _parser().parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("There is no valgrind here, to count with.")
    try:
        counted = count(keep=options.keep)
    except CountError as exc:
        sys.exit(f"Nothing was counted: {exc}")
    comparison = compare(counted, Reference.kept())
    print(comparison)
    if options.update:
        reference_of(counted).keep()
        print(f"The numbers are renewed: commit {KEPT} with the source that they are of.")
    else:
        sys.exit(bool(comparison.grown()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.instructions",
        description="Counts the instructions of a cycle, and fails if there are more than 5 %% more"
        " than there were.",
    )
    parser.add_argument("--update", action="store_true", help="let these be the numbers to keep")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="callgrind's own, to be read")
    return parser


if __name__ == "__main__":
    main()
