"""How often ``cutting.py`` has cut; counted in each process that runs tests."""

from collections import Counter
from typing import Any


class Tally:
    """What has been cut so far in this process."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self.cuts: Counter[str] = Counter()
        self.by_grid: Counter[str] = Counter()
        self.cancellations = 0

    def count(self, operation: str, name: str, grid: str, cancellations: int) -> None:
        self.operations.add(operation)
        self.cuts[name] += 1
        self.by_grid[grid] += 1
        self.cancellations += cancellations

    def add(self, told: dict[str, Any]) -> None:
        """Add what was counted in another process, as that told it by ``vars()``."""
        self.operations |= set(told["operations"])
        self.cuts += Counter(told["cuts"])
        self.by_grid += Counter(told["by_grid"])
        self.cancellations += told["cancellations"]

    def __str__(self) -> str:
        grids = ", ".join(f"{count} by {name}" for name, count in sorted(self.by_grid.items()))
        return (
            f"{len(self.operations)} operations cut {self.cuts.total()} times ({grids}),"
            f" {self.cancellations} cancellations"
        )


TALLY = Tally()
