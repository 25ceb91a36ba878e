"""Own messages until they are acknowledged, and the times of their retransmissions.

A message acknowledged by one participant is not retransmitted: the others request it if they lack it. It
stays here, to learn who else has it, until the caller releases it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from mapi_proc.channels.sds.bloom import CERTAIN, Bloom, bloom_hashes
from mapi_proc.channels.sds.settings import SdsSettings

_MAX_ACKERS = 64


@dataclass(slots=True)
class Pending:
    """One message. `due` is when it is retransmitted, None while it is being transmitted or needs nothing."""

    size: int
    due: float | None
    raw: bytes | None
    attempts: int = 1
    ackers: set[str] = field(default_factory=set)
    hashes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """`bloom_hashes`, by form. Nothing else is remembered of filters: others choose their sizes."""

    def is_in(self, name: str, bloom: Bloom) -> bool:
        found = self.hashes.get(bloom.form)
        if found is None:
            found = self.hashes[bloom.form] = bloom_hashes(bloom.form, name)
        return bloom.has(*found)


class OutgoingBuffer:
    """The outgoing buffer."""

    def __init__(self, settings: SdsSettings) -> None:
        self._settings = settings
        self.pending: dict[str, Pending] = {}
        self.bytes = 0

    def has_room(self, count: int, size: int) -> bool:
        """Return whether `count` messages of `size` bytes in all fit. An empty buffer takes any one send."""
        settings = self._settings
        if not self.pending:
            return True
        return (
            len(self.pending) + count <= settings.max_outgoing
            and self.bytes + size <= settings.max_outgoing_bytes
        )

    def add(self, name: str, raw: bytes, due: float | None) -> None:
        """Keep a message until `release`."""
        self.pending[name] = Pending(len(raw), due, None if self._settings.on_disk else raw)
        self.bytes += len(raw)

    def release(self, name: str) -> None:
        """Forget a message: its payload is delivered, or given up."""
        pending = self.pending.pop(name, None)
        if pending is not None:
            self.bytes -= pending.size

    def transmitted(self, name: str, now: float) -> None:
        """Record the end of an attempt, successful or not: wait for an acknowledgement from now on."""
        pending = self.pending.get(name)
        if pending is not None and not pending.ackers and pending.due is None:
            settings = self._settings
            wait = settings.ack_timeout * 2 ** min(pending.attempts - 1, 10)
            pending.due = now + min(wait, settings.ack_timeout_max)

    def review(self, by: str, named: Collection[str], bloom: Bloom | None) -> list[str]:
        """Return the messages that `by` turns out to have, by the ids its message refers to and its filter.

        A hit in a filter that is so full that hits may be false acknowledges nothing (the specification:
        possibly acknowledged)."""
        if bloom is not None and bloom.false_hits() > CERTAIN:
            bloom = None
        acknowledged = []
        for name, pending in self.pending.items():
            if by in pending.ackers or len(pending.ackers) >= _MAX_ACKERS:
                continue
            if name in named or (bloom is not None and pending.is_in(name, bloom)):
                pending.ackers.add(by)
                pending.due = None
                acknowledged.append(name)
        return acknowledged

    def due(self, now: float) -> tuple[list[str], list[str]]:
        """Return what to retransmit now, the longest due first, and what has had its last attempt."""
        settings = self._settings
        ripe = sorted(
            (pending.due, name)
            for name, pending in self.pending.items()
            if pending.due is not None and pending.due <= now
        )
        again: list[str] = []
        ended: list[str] = []
        for _, name in ripe:
            pending = self.pending[name]
            if pending.attempts >= settings.max_attempts:
                pending.due = None
                ended.append(name)
            elif len(again) < settings.resends_at_once:
                pending.attempts += 1
                pending.due = None
                again.append(name)
        return again, ended

    def times(self) -> Iterable[float]:
        """Return when the next retransmission is due."""
        return (pending.due for pending in self.pending.values() if pending.due is not None)
