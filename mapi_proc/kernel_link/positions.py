"""Where the kernel's streams stand, as it is kept on disk: what a restart goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ipc_schema.kernel.events import parse_stream
from mapi_proc.database import KernelPosition
from mapi_proc.kernel_link.tracker import StreamPlace, StreamTracker

__all__ = ["Positions"]


class Positions:
    """Of all shards that are followed."""

    def __init__(
        self,
        loaded: Iterable[KernelPosition],
        tracker: Callable[[int], StreamTracker | None],
        open_since: Sequence[Callable[[int], int | None]],
    ) -> None:
        """`open_since`: each gives, of a shard, since when messages may be missing that are still asked for
        (ns), or None.
        """
        self._loaded = list(loaded)
        self._tracker = tracker
        self._open_since = open_since

    def take_loaded(self, cluster: int) -> dict[int, StreamPlace]:
        """The positions of the last run by shard, once: who begins to follow a shard later begins anew."""
        loaded, self._loaded = self._loaded, []
        found = {}
        for one in loaded:
            of_cluster, shard = parse_stream(one.stream)
            if of_cluster == cluster:
                found[shard] = StreamPlace(one.instance, one.epoch, one.seq, one.good_moment)
        return found

    def of(self, shard: int) -> StreamPlace | None:
        """What to keep now: the good moment lies before everything that is still asked for."""
        tracker = self._tracker(shard)
        if tracker is None:
            return None
        position = tracker.position
        since = [moment for of in self._open_since if (moment := of(shard)) is not None]
        return position._replace(good_ns=min([position.good_ns, *since]))
