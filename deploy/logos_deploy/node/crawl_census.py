"""What a crawl found, counted: by agent, capability, cluster, shard, reachability and protocol. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ipc_schema.kernel.discovery import EnrRecord
from logos_deploy.text import one_line

DIMENSIONS: Final = ("reachability", "capability", "cluster", "shard", "agent", "protocol")
MAX_VALUES: Final = 100
"""Most different values of a dimension: agents and protocols are whatever nodes say."""
OTHER: Final = "other"
_VALUE_LENGTH: Final = 80
_NOT_REPORTED: Final = "not reported"


class Reach(StrEnum):
    """How far a node was reached."""

    LIBP2P = "libp2p"
    """A libp2p connection was made."""
    DISCV5_ONLY = "discv5 only"
    """It answers discv5, but was not dialled (another cluster, no address), or the dial failed."""
    NONE = "none"
    """It answered neither."""
    NOT_ASKED = "not asked"
    """The crawl ended before its turn, or there was no way to ask it."""


@dataclass(slots=True)
class CrawledNode:
    """One node. `discv5` and `dialled` are None until, and unless, it was asked that way."""

    peer_id: str
    record: EnrRecord | None = None
    addresses: tuple[str, ...] = ()
    discv5: bool | None = None
    dialled: bool | None = None
    why: str = ""
    """Why it could not be dialled, or was disconnected."""
    agent: str = ""
    protocols: tuple[str, ...] = ()
    cluster: int | None = None
    shards: tuple[int, ...] = ()

    def learn(self, record: EnrRecord) -> bool:
        """Take what a record says. Return False if one as new is known."""
        if self.record is not None and self.record.seq >= record.seq:
            return False
        self.record = record
        self.addresses = record.addresses or self.addresses
        if not self.dialled:  # metadata is what the node says now
            self.cluster, self.shards = record.cluster, record.shards
        return True

    @property
    def reach(self) -> Reach:
        """How far it was reached."""
        if self.dialled:
            return Reach.LIBP2P
        if self.discv5:
            return Reach.DISCV5_ONLY
        return Reach.NOT_ASKED if self.discv5 is None and self.dialled is None else Reach.NONE


@dataclass(frozen=True, slots=True)
class Census:
    """`counts`: dimension → value → nodes, the most frequent first. A node may count under several values of
    `capability`, `shard` and `protocol`."""

    nodes: int
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def take_census(nodes: Iterable[CrawledNode]) -> Census:
    total = 0
    counters: dict[str, Counter[str]] = {name: Counter() for name in DIMENSIONS}
    for node in nodes:
        total += 1
        for dimension, values in _values(node).items():
            counters[dimension].update(set(values))
    return Census(total, {name: _bounded(counter) for name, counter in counters.items()})


def _values(node: CrawledNode) -> dict[str, Iterable[str]]:
    cluster = _NOT_REPORTED if node.cluster is None else str(node.cluster)
    capabilities = None if node.record is None else node.record.capabilities
    values: dict[str, Iterable[str]] = {
        "reachability": (node.reach,),
        "capability": (_NOT_REPORTED,) if capabilities is None else capabilities or ("none",),
        "cluster": (cluster,),
        "shard": [f"{cluster}/{shard}" for shard in node.shards],
    }
    if node.dialled:
        values["agent"] = (_clean(node.agent) or _NOT_REPORTED,)
        values["protocol"] = map(_clean, node.protocols)
    return values


def _clean(text: str) -> str:
    return one_line(text)[:_VALUE_LENGTH]


def _bounded(counter: Counter[str]) -> dict[str, int]:
    """Return the most frequent values; the rest is counted together, in occurrences."""
    shown = dict(sorted(counter.most_common(MAX_VALUES), key=lambda pair: (-pair[1], pair[0])))
    if rest := counter.total() - sum(shown.values()):
        shown[OTHER] = shown.get(OTHER, 0) + rest
    return shown
