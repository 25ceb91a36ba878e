"""Which discovered nodes are worth dialling: all Waku clusters share one discv5 network."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_values import MAX_SHARDS


def waku_filter(
    cluster: int,
    shards: Callable[[], Iterable[int]],
    *,
    bootstrap: Iterable[Enr] = (),
    shard_count: int = 0,
) -> Callable[[Enr], bool]:
    """Return a predicate for `NodeCallbacks(wanted=…)`, as in nwaku: the node has a capability
    (33/WAKU2-DISCV5) and may be on one of our shards, or it is a boot node.

    `shards` returns our current shards; while there are none, any node of our cluster or without a cluster is
    accepted. `shard_count` is the number of shards of the cluster if known, otherwise 0; it helps to
    interpret `rsv`.
    """
    known = frozenset(record.node_id for record in bootstrap)

    def wanted(record: Enr) -> bool:
        if record.node_id in known:
            return True
        if not record.capabilities:
            return False
        theirs, ours = record.shards_among(shard_count or MAX_SHARDS), frozenset(shards())
        if not ours:
            return theirs is None or theirs.cluster == cluster
        return theirs is not None and theirs.may_share(cluster, ours)

    return wanted
