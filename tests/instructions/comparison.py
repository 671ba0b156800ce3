"""Counts beside those of a reference, and whether any has grown."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .callgrind import Count, Counted, CountError, count
from .reference import NoSourceError, Reference, build

#: It is no pool: what it takes is the interpreter's.
FLOOR = "floor"

RENEW = "make instructions ARGS=--update"

#: How often the reference's count may be reached where both were made on the same,
SAME = 1.05
#: and where they were not: from CPython 3.11 to 3.12 alone a cycle grew by half.
ELSEWHERE = 2.0


@dataclass(frozen=True)
class Comparison:
    """Counts here, and those that they are held against."""

    here: dict[str, Count]
    reference: dict[str, Count]
    most: float
    #: Where those of the reference are from.
    basis: str

    def growth(self, loop: str) -> float:
        """Return how many times the reference's instructions a cycle takes."""
        return self.here[loop].all / self.reference[loop].all

    def grown(self) -> list[str]:
        """Return the cycles that take more than they may."""
        return [n for n in self._pooled() if self.growth(n) > self.most]

    def shrunk(self) -> list[str]:
        """Return those that may grow again unseen, until the numbers are renewed."""
        return [n for n in self._pooled() if self.growth(n) < 1 / self.most]

    def _pooled(self) -> list[str]:
        # A loop that is new has no reference before the numbers are renewed.
        return [loop for loop in self.here if loop != FLOOR and loop in self.reference]

    def __str__(self) -> str:
        return "\n".join([*self._table(), f"Held against {self.basis}.", *self._verdict()])

    def _table(self) -> Iterator[str]:
        yield (
            f"{'instructions a cycle':<20} {'here':>9} {'reference':>9} {'':>8}"
            f" {'x floor':>8}   in the extension"
        )
        floor = self.here[FLOOR].all
        for loop, (everything, extension) in self.here.items():
            reference = self.reference.get(loop)
            if reference is None:
                yield f"{loop:<20} {everything:>9,.0f} {'new':>9}"
                continue
            yield (
                f"{loop:<20} {everything:>9,.0f} {reference.all:>9,.0f}"
                f" {self.growth(loop) - 1:>+8.1%} {everything / floor:>8.2f}"
                f"   {extension:,.0f} (reference {reference.extension:,.0f})"
            )

    def _verdict(self) -> Iterator[str]:
        for loop in self.grown():
            yield (
                f"FAILED: {loop} takes {self.here[loop].all:,.0f} instructions, the reference"
                f" {self.reference[loop].all:,.0f}; at most {self.most - 1:.0%} more is let pass."
            )
        if self.grown():
            yield (
                "Find what was added (--keep FILE, then callgrind_annotate FILE); if it is worth"
                f" that, renew the numbers: {RENEW}"
            )
        elif self.shrunk():
            yield f"Less than it was: {', '.join(self.shrunk())}. To hold on to it: {RENEW}"


def compare(counted: Counted, reference: Reference) -> Comparison:
    """Hold counts against a reference, as well as can be done here."""
    different = reference.differences(counted.environment)
    if not different:
        return Comparison(counted.counts, reference.counts, SAME, "the numbers that are kept")
    why = f"another {', '.join(different)} here"
    try:
        counts = _rebuilt(reference)
    except (NoSourceError, CountError) as exc:
        basis = f"the numbers that are kept, which here say little: {why}, and {exc}"
        return Comparison(counted.counts, reference.counts, ELSEWHERE, basis)
    basis = f"the reference's source, built and counted here: {why} than for the numbers kept"
    return Comparison(counted.counts, counts, SAME, basis)


def _rebuilt(reference: Reference) -> dict[str, Count]:
    if reference.source is None:
        raise NoSourceError("the reference does not say its source")
    with tempfile.TemporaryDirectory() as directory:
        counted = count(build(reference.source, Path(directory)))
    return counted.counts
