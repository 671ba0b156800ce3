"""Finds the benchmark for the tests of it, which are skipped where it is not.

Imported first, it makes ``bench`` known, of which the rest can be imported then.
"""

import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]

if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ is not there", allow_module_level=True)

# It asks for as many descriptors as there may be, which Windows has no name for.
pytest.importorskip("resource")

# Behind all others: the package under test is the installed one, if there is one.
sys.path.append(str(ROOT))
try:
    import bench  # noqa: F401
finally:
    sys.path.remove(str(ROOT))
