"""What was sent, what became of it, who received it how often. Pure: times come in.

Messages are known by their payload, which is different for each: what arrives can be checked against what
was sent without trusting any identifier that the node itself made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from logos_deploy.text import size, table

__all__ = ["Entry", "Ledger"]


@dataclass(slots=True)
class Entry:
    """One message. Times are seconds on one clock."""

    sender: str
    payload: bytes
    sent_at: float
    accepted_at: float | None = None
    propagated_at: float | None = None
    error: str | None = None
    received: dict[str, list[float]] = field(default_factory=dict)
    """By app: when it came, once for each time."""

    def after(self, moment: float | None) -> str:
        """Milliseconds since it was sent, for a table."""
        return "-" if moment is None else f"{(moment - self.sent_at) * 1000:,.1f}"


class Ledger:
    """All messages of the demonstration, and who must receive them."""

    def __init__(self, apps: Sequence[str]) -> None:
        self._apps = tuple(apps)
        self._entries: dict[bytes, Entry] = {}
        self._requests: dict[bytes, Entry] = {}
        self.strangers = 0
        """Messages that came and that nobody here sent."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def sending(self, sender: str, payload: bytes, request_id: bytes, now: float) -> Entry:
        """A message is handed to the client. (Its fate may be told before the client returns.)"""
        if payload in self._entries:
            raise ValueError("each payload of the demonstration is sent once")
        entry = self._entries[payload] = self._requests[request_id] = Entry(sender, payload, now)
        return entry

    def propagated(self, request_id: bytes, now: float) -> None:
        """The event of that name."""
        if (entry := self._requests.get(request_id)) is not None:
            entry.propagated_at = now

    def failed(self, request_id: bytes, text: str) -> None:
        """The message was given up."""
        if (entry := self._requests.get(request_id)) is not None:
            entry.error = text

    def received(self, app: str, payload: bytes, now: float) -> None:
        """It came."""
        entry = self._entries.get(payload)
        if entry is None:
            self.strangers += 1
        else:
            entry.received.setdefault(app, []).append(now)

    def settled(self, entries: Sequence[Entry]) -> bool:
        """Whether each has propagated and reached everybody; or an error makes waiting pointless."""
        return any(entry.error for entry in entries) or all(
            entry.propagated_at is not None and len(entry.received) == len(self._apps) for entry in entries
        )

    def faults(self, entries: Iterable[Entry] | None = None) -> list[str]:
        """What is wrong, in words; empty when each message (or each of `entries`) reached each app exactly
        once."""
        faults = []
        for entry in self if entries is None else entries:
            what = f"{size(len(entry.payload))} from {entry.sender}"
            if entry.error:
                faults.append(f"{what}: {entry.error}")
            elif entry.propagated_at is None:
                faults.append(f"{what}: not propagated")
            for app in self._apps:
                times = len(entry.received.get(app, ()))
                if times != 1:
                    faults.append(f"{what}: {app} received it {'never' if not times else f'{times} times'}")
        if self.strangers:
            faults.append(f"{self.strangers} messages came that nobody sent")
        return faults

    def time_lines(self, entries: Sequence[Entry]) -> str:
        """A table: milliseconds from the call of `send` to each step."""
        rows = []
        for entry in entries:
            other = next(app for app in self._apps if app != entry.sender)
            arrived = entry.received.get(other)
            rows.append(
                (
                    f"{entry.sender} → {other}",
                    size(len(entry.payload)),
                    entry.after(entry.accepted_at),
                    entry.after(entry.propagated_at),
                    entry.after(arrived[0] if arrived else None),
                )
            )
        heads = ("ms after send()", "size", "accepted", "propagated", "received")
        return table(rows, heads=heads, right=(1, 2, 3, 4))
