"""Credit and acknowledgement of an app's stream (SPEC.md, "The app's stream")."""

from __future__ import annotations

from ipc_schema.errors import ErrorCode, IpcError

__all__ = ["AckPosition", "CreditGrant", "CreditWindow"]


class CreditWindow:
    """The sender's side: bytes granted and spent since the hello.

    An event may be sent while `open`; one event may overdraw.
    """

    __slots__ = ("spent", "total")

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.spent = 0

    @property
    def open(self) -> bool:
        """Whether the next event may be sent."""
        return self.spent < self.total

    @property
    def available(self) -> int:
        """Bytes left; negative when the last event has overdrawn."""
        return self.total - self.spent

    def grant(self, total: int) -> bool:
        """Take a grant; totals only grow, an older one changes nothing. True: the window was opened by it."""
        was_open = self.open
        self.total = max(self.total, total)
        return self.open and not was_open

    def spend(self, cost: int) -> None:
        """Count an event that was sent."""
        self.spent += cost


class CreditGrant:
    """The receiver's side: keeps about `window` bytes granted ahead of what it has handled.

    A new total is due when half of the window is used: one request for many events, and never a stall.
    """

    __slots__ = ("handled", "total", "window")

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"a credit window of {window} bytes")
        self.window = window
        self.total = window  # what the hello grants
        self.handled = 0

    def handle(self, cost: int) -> int | None:
        """Count an event that was handled; the new total to grant, None while none is due."""
        self.handled += cost
        if self.total - self.handled > self.window // 2:
            return None
        self.total = self.handled + self.window
        return self.total

    def restart(self) -> int:
        """A new hello: nothing is handled yet. The credit to grant in it."""
        self.total = self.window
        self.handled = 0
        return self.total


class AckPosition:
    """Cumulative acknowledgement: everything up to `acked` is done with, `last` is the last seq given."""

    __slots__ = ("acked", "last")

    def __init__(self, acked: int = 0, last: int = 0) -> None:
        if not 0 <= acked <= last:
            raise ValueError(f"acked {acked} is outside 0..{last}")
        self.acked = acked
        self.last = last

    def ack(self, seq: int) -> bool:
        """Take an ack. True: the position moved; an older one changes nothing.

        Raises `IpcError` (`bad_request`) for a seq that was never given.
        """
        if not 0 <= seq <= self.last:
            raise IpcError(ErrorCode.BAD_REQUEST, f"ack: seq {seq} is outside 0..{self.last}")
        if seq <= self.acked:
            return False
        self.acked = seq
        return True
