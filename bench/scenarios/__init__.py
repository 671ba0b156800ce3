"""Scenarios by name."""

from importlib import import_module
from typing import Final

from ..scenario import Scenario

# The module of each scenario, in the order of the report. The process of a contender imports only
# the scenarios in which it takes part.
_MODULES: Final = {
    "core": "core",
    "held": "core",
    "endpoints": "core",
    "endpoints-in-turn": "core",
    "handshakes": "core",
    "handshakes-in-turn": "core",
    "cycle": "public",
    "async-with": "public",
    "options": "public",
    "new-header": "public",
    "cycle-held": "public",
    "hand-over": "crowd",
    "contended": "crowd",
    "fairness": "crowd",
    "given-up": "crowd",
    "request-reply": "request_reply",
    "request-reply-tls": "request_reply",
    "transfer-tls": "request_reply",
    "spike": "spike",
    "idle-watcher": "idle_watcher",
    "memory": "memory",
    "memory-rss": "memory",
    "scale": "scale",
    "scale-uvloop": "scale",
    "scale-tls": "scale",
    "scale-tls-uvloop": "scale",
}

#: In the order of the report.
SCENARIOS: Final = tuple(_MODULES)


def find(name: str) -> Scenario:
    scenarios: tuple[Scenario, ...] = import_module(f"{__name__}.{_MODULES[name]}").SCENARIOS
    return next(scenario for scenario in scenarios if scenario.name == name)
