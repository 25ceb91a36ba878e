"""A reader's position in one of the kernel's streams, and what to do with each event. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from ipc_schema.streams import GapTracker, HeldEvents, Step
from logos_client.kernel_events import StreamLoss


class CursorVerdict(Enum):
    """`KEEP` the event; `SKIP` it; `CATCH_UP`: skip it, something before it is missing."""

    KEEP = "keep"
    SKIP = "skip"
    CATCH_UP = "catch up"


class StreamCursor:
    """Follows `stream`. Losses accumulate in `losses` until they are taken."""

    def __init__(self, stream: str, held_bytes: int = 0) -> None:
        self.stream = stream
        self.losses: list[StreamLoss] = []
        self.behind = False
        """A replay is in progress: live events are skipped or held, since it delivers what is before them."""
        self.held = HeldEvents(held_bytes)
        self.heard = False
        """Whether a heartbeat has arrived: the subscription is in force (ZeroMQ's slow-joiner problem)."""
        self._tracker: GapTracker | None = None

    @property
    def last(self) -> int:
        """The last seq kept."""
        return self._tracker.last if self._tracker is not None else 0

    @property
    def epoch(self) -> bytes:
        """The epoch that is followed; empty before the first event."""
        return self._tracker.epoch if self._tracker is not None else b""

    @property
    def highest(self) -> int:
        """The highest seq known to exist in this epoch."""
        return self._tracker.highest if self._tracker is not None else 0

    def start(self, instance: bytes, epoch: bytes, last: int) -> None:
        """Start behind `last`, unless the epoch is followed already."""
        if self._tracker is None:
            self._tracker = GapTracker(instance, epoch, last)

    def event(self, instance: bytes, epoch: bytes, seq: int) -> CursorVerdict:
        """Take a live event."""
        if self._tracker is None:
            self._tracker = GapTracker(instance, epoch, seq - 1)
        if self.behind:
            return CursorVerdict.SKIP
        return self._judge(self._tracker.feed, instance, epoch, seq)

    def heartbeat(self, instance: bytes, epoch: bytes, seq: int) -> CursorVerdict:
        """Take a heartbeat: events up to its seq exist, and those that we lack are missing."""
        self.heard = True
        if self._tracker is None:
            self._tracker = GapTracker(instance, epoch, seq)
        if self.behind:
            return CursorVerdict.SKIP
        verdict = self._judge(self._tracker.heartbeat, instance, epoch, seq)
        return verdict if verdict is CursorVerdict.CATCH_UP else CursorVerdict.SKIP

    def replayed(self, instance: bytes, epoch: bytes, seq: int) -> CursorVerdict:
        """Take a replayed event."""
        assert self._tracker is not None
        return self._judge(self._tracker.feed, instance, epoch, seq)

    def _judge(
        self, feed: Callable[[bytes, bytes, int], Step], instance: bytes, epoch: bytes, seq: int
    ) -> CursorVerdict:
        step = feed(instance, epoch, seq)
        if step is Step.NEW_EPOCH:
            self.restart(instance, epoch, "the kernel restarted this stream")
            step = feed(instance, epoch, seq)
        if step is Step.IN_ORDER:
            return CursorVerdict.KEEP
        return CursorVerdict.CATCH_UP if step is Step.GAP else CursorVerdict.SKIP

    def take_held(self) -> list[tuple[Any, bytes]]:
        """Return the held events that follow the last one kept: nothing is missing before them any more."""
        assert self._tracker is not None
        return self.held.take(self._tracker.instance, self._tracker.epoch, self._tracker.last)

    def restart(self, instance: bytes, epoch: bytes, reason: str) -> None:
        """Follow another epoch from its first event. An unknown number of the old one's events is lost."""
        assert self._tracker is not None
        self.losses.append(StreamLoss(self.stream, self._tracker.last + 1, None, reason))
        self._tracker.restart(instance, epoch)

    def give_up(self, last: int, reason: str) -> None:
        """Record events up to `last` as lost."""
        assert self._tracker is not None
        if last > self._tracker.last:
            self.losses.append(StreamLoss(self.stream, self._tracker.last + 1, last, reason))
            self._tracker.skip_to(last)

    def jump(self, last: int) -> None:
        """Skip events up to `last`: a snapshot replaces them."""
        assert self._tracker is not None
        self._tracker.skip_to(last)
