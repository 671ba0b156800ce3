"""What a fleet costs its Redis: time of a call, calls in a second, and memory."""

import socket
import time
from typing import Any

from aiowebsocketclient.fleet import Report

from .script import KEYS, Script

SESSIONS = 1000
PLACES = 100


def measure(client: Any, path: str) -> str:
    """Return a table in Markdown.

    :param path: of the Unix socket of this Redis, which does nothing else.
    """
    script = Script(client, "cost", SESSIONS * PLACES)
    script.settle()
    before = client.info("memory")["used_memory"]
    until = {}
    for i in range(SESSIONS):
        grant = script(f"{i:032x}", Report(1, 0, 0, 0, 0, PLACES, 0, 0, 0), None).grant
        assert grant is not None
        assert grant.places == PLACES
        until[i] = grant.until
    memory = client.info("memory")["used_memory"] - before
    rows = [
        f"| memory of {SESSIONS:,} sessions with {PLACES} places each | {memory / 1024:,.0f} kB |",
        renewals(script, path, "renewals, nobody waiting", 2, PLACES, until),
        renewals(script, path, "renewals, all waiting", 10_000, PLACES + 5, until),
    ]
    script.clear()
    return "\n".join(["| cost | |", "| --- | --- |", *rows])


def renewals(script: Script, path: str, title: str, seq: int, demand: int, until: Any) -> str:
    """Let all sessions report again and again, as fast as this Redis can do it."""
    commands = []
    for turn in range(20):
        for i in range(SESSIONS):
            report = Report(seq + turn, PLACES, PLACES, PLACES, until[i], demand, 0, 0, 0)
            command = script.command(f"{i:032x}", report, None)
            command[command.index("r", len(KEYS))] = "p"
            commands.append(packed(command))
    script.client.config_resetstat()
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        for at in range(0, len(commands), 50):
            connection.sendall(b"".join(commands[at : at + 50]))
            replies = 0
            while replies < len(commands[at : at + 50]):
                reply = connection.recv(1 << 16)
                assert b"-" not in reply, reply
                replies += reply.count(b"*")
    seconds = time.monotonic() - began
    each = script.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    return f"| {title} | {each:.0f} us each in Redis, {len(commands) / seconds:,.0f}/s |"


def packed(command: list[Any]) -> bytes:
    parts = [str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)
