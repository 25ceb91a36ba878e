"""State of an edge node's filter subscriptions, shard by shard, and the requests that change it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from typing import NamedTuple


class Audit(NamedTuple):
    """Ask all holders whether they still hold it, and the kernel for everything that is held."""


class Subscribe(NamedTuple):
    """Subscribe to these at `peer`."""

    shard: int
    peer: str
    topics: tuple[str, ...]


class Unsubscribe(NamedTuple):
    """Unsubscribe at a peer that is one too many."""

    shard: int
    peer: str
    topics: tuple[str, ...]


class Leave(NamedTuple):
    """Unsubscribe everywhere. Without topics: everything of the shard, to start over."""

    shard: int
    topics: tuple[str, ...]


Action = Audit | Subscribe | Unsubscribe | Leave


@dataclass(slots=True)
class ShardState:
    """One shard of an edge node."""

    wanted: dict[str, float] = field(default_factory=dict)
    """Content topic -> since when (the plan's clock)."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """Peer -> the content topics that it holds for us."""
    asked: set[str] = field(default_factory=set)
    """Topics that the kernel may count as our interest: it keeps interest until withdrawn, held or not."""
    confirmed: set[str] = field(default_factory=set)
    """Of the wanted topics, those that were ever held."""
    lease: tuple[bytes, bytes] | None = None
    """Instance and epoch of the stream that the kernel records for us."""
    kernel_count: int = 0
    """Peers that push what all consumers want, counted for the topic with the fewest: from the kernel's
    health."""
    doubt_since: float | None = None
    """Since when the kernel counts fewer than we do."""
    believed: int | None = None
    """A kernel count this low was found to be no loss of ours: other consumers want something too."""
    suspect: bool = False
    """An audit is in flight because of it."""
    restart: bool | None = None
    """Start over from nothing; None: not tried under this lease yet."""

    def want(self, topics: Set[str], now: float) -> bool:
        """Set the wanted topics. Return True if that is a change."""
        gone, new = self.wanted.keys() - topics, topics - self.wanted.keys()
        for topic in gone:
            del self.wanted[topic]
        self.confirmed -= gone
        self.wanted.update(dict.fromkeys(new, now))
        return bool(gone or new)

    def holders(self, topic: str) -> int:
        return sum(topic in topics for topics in self.held.values())

    def count(self) -> int:
        """Return the least count that the kernel should report if only we wanted anything."""
        return min(map(self.holders, self.asked), default=0)

    def strength(self, new_since: float) -> int | None:
        """Return how many peers hold what is wanted, counted for the topic with the fewest.

        Topics never held and wanted only since `new_since` or later are left out; None: there are no others.
        """
        settled = [t for t, since in self.wanted.items() if t in self.confirmed or since < new_since]
        return min(map(self.holders, settled), default=None)

    @property
    def exposed(self) -> bool:
        """Return whether a topic that was held before is held by no peer now without the kernel knowing.

        A restarted kernel misses nothing until it has been asked.
        """
        return self.kernel_count > 0 and not all(self.holders(topic) for topic in self.confirmed)
