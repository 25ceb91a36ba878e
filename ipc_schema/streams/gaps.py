"""Gap detection: what a reader of one stream has seen, and what it is missing."""

from __future__ import annotations

from enum import Enum

__all__ = ["GapTracker", "Step"]


class Step(Enum):
    """What an event or heartbeat means for a reader.

    - `IN_ORDER`: the next event (now counted as seen), or a heartbeat that confirms the last one.
    - `DUPLICATE`: seen before, or a heartbeat older than what a replay has delivered since.
    - `GAP`: something before it is missing: request a replay after `tracker.last`. Nothing was counted: the
      replay includes the event.
    - `NEW_EPOCH`: another instance or epoch than the tracked one. Nothing was counted: decide about the old
      epoch's loss, `restart`, and feed the event again.
    """

    IN_ORDER = "in order"
    DUPLICATE = "duplicate"
    GAP = "gap"
    NEW_EPOCH = "new epoch"


class GapTracker:
    """Position of a reader in one stream: (instance, epoch, last seq seen).

    Hot callers may compare `seq == tracker.last + 1` and the epoch themselves and set `last`; `feed` does
    the same.
    """

    __slots__ = ("epoch", "highest", "instance", "last")

    def __init__(self, instance: bytes = b"", epoch: bytes = b"", last: int = 0) -> None:
        self.instance = instance
        self.epoch = epoch
        self.last = last
        self.highest = last
        """The highest seq of this epoch known to exist."""

    @property
    def missing(self) -> tuple[int, int] | None:
        """The first and last seq known to exist beyond `last`; None if nothing is missing."""
        return (self.last + 1, self.highest) if self.highest > self.last else None

    def restart(self, instance: bytes, epoch: bytes, last: int = 0) -> None:
        """Follow another epoch, starting behind `last`."""
        self.instance = instance
        self.epoch = epoch
        self.last = last
        self.highest = last

    def exists(self, seq: int) -> None:
        """Record that events up to `seq` exist."""
        self.highest = max(self.highest, seq)

    def skip_to(self, last: int) -> None:
        """Give up what is missing up to `last` (a replay answered `trimmed`); never goes back."""
        self.last = max(self.last, last)
        self.highest = max(self.highest, last)

    def feed(self, instance: bytes, epoch: bytes, seq: int) -> Step:
        """Take an event, live or replayed."""
        if epoch != self.epoch or instance != self.instance:
            return Step.NEW_EPOCH
        if seq <= self.last:
            return Step.DUPLICATE
        self.highest = max(self.highest, seq)
        if seq > self.last + 1:
            return Step.GAP
        self.last = seq
        return Step.IN_ORDER

    def heartbeat(self, instance: bytes, epoch: bytes, seq: int) -> Step:
        """Take a heartbeat, whose `seq` is the last one assigned and not its own."""
        if epoch != self.epoch or instance != self.instance:
            return Step.NEW_EPOCH
        if seq == self.last:
            return Step.IN_ORDER
        if seq < self.last:
            return Step.DUPLICATE
        self.highest = max(self.highest, seq)
        return Step.GAP
