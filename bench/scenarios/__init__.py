"""What can be measured, by name."""

from typing import Final

from ..scenario import Scenario
from .core import core
from .floor import floor
from .public import async_with, cycle

SCENARIOS: Final[dict[str, Scenario]] = {
    "floor": floor,
    "core": core,
    "cycle": cycle,
    "async-with": async_with,
}
