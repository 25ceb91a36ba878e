"""The state of a stream as leases, hello and `epoch_changed` report it."""

from __future__ import annotations

from typing import Annotated

from ipc_schema.body import Bin8, Body, Ns, Range, Size, Uint
from ipc_schema.streams.coverage import MAX_INTERVALS

__all__ = ["StreamState"]


class StreamState(Body):
    """A recorded stream. `first` is the oldest seq in the replay ring (`last` + 1 if it is empty).

    `coverage`: intervals `(from ns, to ns)` in which the node could receive the shard; None = still open.
    """

    stream: Annotated[str, Size(64, 1)]
    shard: Annotated[int, Range(0, 0xFFFF)]
    epoch: Bin8
    first: Uint
    last: Uint
    coverage: Annotated[tuple[tuple[Ns, Ns | None], ...], Size(MAX_INTERVALS)] = ()
