"""What clients and servers share: a file in memory, which outlives a server that is killed."""

import mmap
from enum import IntEnum, auto
from pathlib import Path
from typing import Final, NamedTuple

SERVERS: Final = 2
#: Each lane has so many ports at each server.
PORTS: Final = 2

#: Stands for a limit that there is not.
UNLIMITED: Final = 2**40


class Field(IntEnum):
    """One number of one server."""

    #: How often it has listened; it does while ``LISTENING``.
    STARTS = 0
    LISTENING = auto()
    ACCEPTED = auto()
    #: What it did by itself, or because it was asked.
    ABORTS = auto()
    CLOSES = auto()
    UNSOLICITED = auto()
    FLOODS = auto()
    GARBAGE = auto()
    PINGS = auto()
    REFUSALS = auto()


class LaneField(IntEnum):
    """One number of one lane at one server."""

    #: What may be open: at each port, and at all ports of all servers together.
    LIMIT = 0
    LIMIT_TOTAL = auto()
    PEAK = auto()
    PEAK_TOTAL = auto()
    #: How often more was open, and by how much at most.
    EXCEEDED = auto()
    EXCESS = auto()


class Over(NamedTuple):
    times: int
    most: int


class Ledger:
    """Numbers of 64 bits; each but ``calm`` and the limits has one process that writes it."""

    def __init__(self, path: Path, lanes: int) -> None:
        self._per_server = len(Field) + lanes * len(LaneField)
        size = 8 * (1 + SERVERS * self._per_server)
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._numbers = memoryview(self._map).cast("q")
        self.lanes = lanes

    def close(self) -> None:
        self._numbers.release()
        self._map.close()

    @property
    def calm(self) -> bool:
        """Whether the servers are to do nothing by themselves any more."""
        return bool(self._numbers[0])

    @calm.setter
    def calm(self, value: bool) -> None:
        self._numbers[0] = value

    def _index(self, server: int, field: Field) -> int:
        return 1 + server * self._per_server + field

    def get(self, server: int, field: Field) -> int:
        return self._numbers[self._index(server, field)]

    def put(self, server: int, field: Field, value: int) -> None:
        self._numbers[self._index(server, field)] = value

    def add(self, server: int, field: Field) -> None:
        self._numbers[self._index(server, field)] += 1

    def sum(self, field: Field) -> int:
        return sum(self.get(server, field) for server in range(SERVERS))

    def _lane_index(self, server: int, lane: int, field: LaneField) -> int:
        return 1 + server * self._per_server + len(Field) + lane * len(LaneField) + field

    def lane(self, server: int, lane: int, field: LaneField) -> int:
        return self._numbers[self._lane_index(server, lane, field)]

    def put_lane(self, server: int, lane: int, field: LaneField, value: int) -> None:
        self._numbers[self._lane_index(server, lane, field)] = value

    def allow(self, lane: int, limit: int | None, limit_total: int | None) -> None:
        """Say what may be open from now on."""
        for server in range(SERVERS):
            self.put_lane(server, lane, LaneField.LIMIT, limit or UNLIMITED)
            self.put_lane(server, lane, LaneField.LIMIT_TOTAL, limit_total or UNLIMITED)

    def raise_peak(self, server: int, lane: int, field: LaneField, count: int, limit: int) -> None:
        if count > self.lane(server, lane, field):
            self.put_lane(server, lane, field, count)
        if count > limit:
            times = self.lane(server, lane, LaneField.EXCEEDED)
            self.put_lane(server, lane, LaneField.EXCEEDED, times + 1)
            excess = max(count - limit, self.lane(server, lane, LaneField.EXCESS))
            self.put_lane(server, lane, LaneField.EXCESS, excess)

    def peak(self, lane: int, field: LaneField) -> int:
        return max(self.lane(server, lane, field) for server in range(SERVERS))

    def exceeded(self, lane: int) -> Over:
        return Over(
            sum(self.lane(server, lane, LaneField.EXCEEDED) for server in range(SERVERS)),
            self.peak(lane, LaneField.EXCESS),
        )
