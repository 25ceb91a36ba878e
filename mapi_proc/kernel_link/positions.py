"""The stored positions of the kernel's streams, from which a restart continues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ipc_schema.kernel.events import parse_stream
from mapi_proc.database import KernelPosition
from mapi_proc.kernel_link.tracker import StreamPlace, StreamTracker


@dataclass(eq=False)
class Positions:
    """Positions of all followed shards."""

    loaded: Sequence[KernelPosition]
    """Those of the last run, until they are taken."""
    tracker: Callable[[int], StreamTracker | None]
    open_since: Sequence[Callable[[int], int | None]]
    """Each returns, for a shard, since when messages may be missing that are still being recovered (ns), or
    None."""

    def take_loaded(self, cluster: int) -> dict[int, StreamPlace]:
        """Return the positions of the last run by shard, once. A shard followed later starts without one."""
        loaded, self.loaded = self.loaded, ()
        found = {}
        for one in loaded:
            of_cluster, shard = parse_stream(one.stream)
            if of_cluster == cluster:
                found[shard] = StreamPlace(one.instance, one.epoch, one.seq, one.good_moment)
        return found

    def of(self, shard: int) -> StreamPlace | None:
        """Return what to store now: the good moment precedes everything that is still being recovered."""
        tracker = self.tracker(shard)
        if tracker is None:
            return None
        position = tracker.position
        since = [moment for of in self.open_since if (moment := of(shard)) is not None]
        return position._replace(good_ns=min([position.good_ns, *since]))
