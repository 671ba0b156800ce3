"""Rules left out, each of which the model has to miss."""

from aiowebsocketclient.fleet import Report
from aiowebsocketclient.lease import Lease, Need

#: What is replaced in the script.
SCRIPTS: dict[str, tuple[str, str]] = {
    "no seq": ("local is_current = report.seq > mine.seq", "local is_current = true"),
    "no until": ("if report.valid > 0 and report.valid <= now then return {-1} end", ""),
    "known ignored": ("max(0, was - report.known)", "0"),
    "known taken for nothing": ("max(0, was - report.known)", "was"),
    "no hold": ("state.hold = now + report.lease\n", ""),
    "held only for who is late": (
        "if newest and newest < now + report.lease / 2 then",
        "if newest and newest < now + report.lease / 2"
        " and call('ZCOUNT', EXPIRY, '-inf', now) > 0 then",
    ),
    "no learning after a failover": ("elseif run and run ~= before.run then", "elseif false then"),
    "no learning after a flush": ("if mine.is_new and report.valid > 0 then", "if false then"),
    "grants trusted while learning": ("is_learning and 0 or max", "max"),
}


class LateCap(Lease):
    """It lowers its cap with the answer, not before the report is on its way."""

    __slots__ = ()

    def begin(self, need: Need, now: float) -> Report:
        cap = self.cap
        report = super().begin(need, now)
        self.cap = max(cap, self.cap)
        return report


LEASES: dict[str, type[Lease]] = {"cap lowered late": LateCap}
