"""The script of the package as tests call it: with a time of theirs, and nudges as a list."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiowebsocketclient
from aiowebsocketclient.fleet import Grant, Report

PATH = Path(aiowebsocketclient.__file__).with_name("fleet.lua")
KEYS = ("state", "members", "expiry", "rich", "line", "spare", "turns")
FIELDS = ("granted", "asked", "lent", "offers", "lacks", "place", "order", "since", "seq")


def text(*changes: tuple[str, str]) -> str:
    """Return the script, with each text in it that occurs exactly once replaced."""
    script = PATH.read_text()
    for old, new in changes:
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return script


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class Answer(NamedTuple):
    """What the script says to a report; no grant: the report came too late."""

    grant: Grant | None
    nudged: tuple[str, ...]


class Script:
    """The script on a Redis, with the keys and options of one fleet.

    :param client: a synchronous client of redis-py.
    :param rate: handshakes, in so many seconds.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        limit: int,
        *,
        lease: float = 30.0,
        turn: float = 1.0,
        rate: tuple[int, float] | None = None,
        source: str | None = None,
    ) -> None:
        self.client = client
        self.keys = [f"awc:{{{name}}}:{key}" for key in KEYS]
        self.limit = limit
        self.lease = lease
        self.turn = turn
        self.rate = rate
        source = text() if source is None else source
        self._sha = hashlib.sha1(source.encode()).hexdigest()
        assert client.script_load(source) in (self._sha, self._sha.encode())

    def command(
        self, member: str, report: Report, now: float | None, *, is_first: bool = False
    ) -> list[Any]:
        """Return the call.  ``now``: seconds; None: as Redis has it."""
        count, seconds = (0, 0.0) if self.rate is None else self.rate
        command: list[Any] = ["EVALSHA", self._sha, len(KEYS), *self.keys]
        command += [
            member,
            report.seq,
            milliseconds(self.lease),
            self.limit,
            milliseconds(self.turn),
        ]
        command += [report.held, report.cap, report.known, report.until, report.demand]
        command += [report.like, report.spare, report.handshakes, count, milliseconds(seconds)]
        command += ["", "r", "1" if is_first else "0"]
        if now is not None:
            command.append(milliseconds(now))
        return command

    def __call__(
        self, member: str, report: Report, now: float | None, *, is_first: bool = False
    ) -> Answer:
        command = self.command(member, report, now, is_first=is_first)
        return self.answer(self.client.execute_command(*command))

    @staticmethod
    def answer(reply: Sequence[Any]) -> Answer:
        if len(reply) == 1:
            assert reply[0] == -1
            return Answer(None, ())
        granted, target, until, waiting, used, learning, limit, *turns, nudged = reply
        delays = tuple(delay / 1000 for delay in turns)
        grant = Grant(granted, target, until, waiting, used, learning / 1000, delays, limit)
        return Answer(grant, tuple(name.decode() for name in nudged))

    def records(self) -> dict[str, dict[str, int]]:
        return self.parse_records(self.client.hgetall(self.keys[1]))

    @staticmethod
    def parse_records(fields: dict[bytes, bytes]) -> dict[str, dict[str, int]]:
        return {
            member.decode(): dict(zip(FIELDS, map(int, record.split()), strict=True))
            for member, record in fields.items()
        }

    def state(self) -> dict[str, int]:
        return self.parse_state(self.client.hgetall(self.keys[0]))

    @staticmethod
    def parse_state(fields: dict[bytes, bytes]) -> dict[str, int]:
        return {name.decode(): int(value) for name, value in fields.items() if name != b"run"}

    def settle(self) -> None:
        """Make a Redis that has just started look like one that has been up for a lease."""
        run = self.client.info("server")["run_id"]
        self.client.hset(self.keys[0], mapping={"used": 0, "run": run})

    def clear(self) -> None:
        self.client.delete(*self.keys)
