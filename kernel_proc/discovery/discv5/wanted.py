"""Which of the nodes that discv5 meets are worth dialling: all clusters of Waku share one network of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_values import MAX_SHARDS

__all__ = ["waku_filter"]


def waku_filter(
    cluster: int,
    shards: Callable[[], Iterable[int]],
    *,
    bootstrap: Iterable[Enr] = (),
    shard_count: int = 0,
) -> Callable[[Enr], bool]:
    """A predicate for `Discv5Service(wanted=…)`, as nwaku has it: the node serves something (33/WAKU2-DISCV5)
    and may be on one of our shards, or it is a boot node.

    `shards` gives ours, now; while we have none, any node of our cluster will do, and such a one that names
    no cluster. `shard_count`: how many shards the cluster has, where that is known (0: not), which helps to
    read `rsv`.
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
