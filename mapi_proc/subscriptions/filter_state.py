"""What is known of an edge node's filter subscriptions, shard by shard, and the requests that change them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Action", "Audit", "Leave", "ShardState", "Subscribe", "Unsubscribe"]


class Audit(NamedTuple):
    """Ask all holders whether they still hold it, and the kernel for the whole of what is held."""


class Subscribe(NamedTuple):
    """Have `peer` push these."""

    shard: int
    peer: str
    topics: tuple[str, ...]


class Unsubscribe(NamedTuple):
    """Take back what is held at one peer too many."""

    shard: int
    peer: str
    topics: tuple[str, ...]


class Leave(NamedTuple):
    """No longer wanted: nowhere. Without topics: everything of the shard, to begin anew."""

    shard: int
    topics: tuple[str, ...]


Action = Audit | Subscribe | Unsubscribe | Leave


@dataclass(slots=True)
class ShardState:
    """One shard of an edge node, as far as it is known."""

    wanted: dict[str, float] = field(default_factory=dict)
    """Content topic -> since when (the plan's clock)."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """Peer -> the content topics that it holds for us."""
    asked: set[str] = field(default_factory=set)
    """What the kernel may think we want: it remembers a wish until it is taken back, held or not."""
    confirmed: set[str] = field(default_factory=set)
    """Of the wanted topics, those that were ever held."""
    lease: tuple[bytes, bytes] | None = None
    """Instance and epoch of the stream that the kernel records for us."""
    kernel_count: int = 0
    """Peers that push what all consumers want, of the topic that fewest hold: as the kernel's health says."""
    doubt_since: float | None = None
    """Since when the kernel counts fewer than we do."""
    believed: int | None = None
    """So low a kernel's count was found to be no loss of ours: other consumers want something too."""
    suspect: bool = False
    """An audit is under way because of it."""
    anew: bool | None = None
    """To be begun anew; None: that has not been tried under this lease."""

    def want(self, topics: Set[str], now: float) -> bool:
        """These are wanted now, and no others. True: that is a change."""
        gone, new = self.wanted.keys() - topics, topics - self.wanted.keys()
        for topic in gone:
            del self.wanted[topic]
        self.confirmed -= gone
        self.wanted.update(dict.fromkeys(new, now))
        return bool(gone or new)

    def holders(self, topic: str) -> int:
        return sum(topic in topics for topics in self.held.values())

    def count(self) -> int:
        """What the kernel should count at least, if only we wanted anything."""
        return min(map(self.holders, self.asked), default=0)

    def strength(self, new_since: float) -> int | None:
        """How many peers hold what is wanted, of the topic that fewest hold. Topics that were never held and
        are wanted since after `new_since` only are left out; None: there are no others.
        """
        settled = [t for t, since in self.wanted.items() if t in self.confirmed or since < new_since]
        return min(map(self.holders, settled), default=None)

    @property
    def exposed(self) -> bool:
        """Whether a topic that was held before is held by nobody, and the kernel does not know it: to a
        kernel that was restarted nothing is missing until it has been asked for.
        """
        return self.kernel_count > 0 and not all(self.holders(topic) for topic in self.confirmed)
