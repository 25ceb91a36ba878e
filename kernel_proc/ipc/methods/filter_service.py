"""filter.subscribers: the peers to which this node pushes messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgpack import packb

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import MAX_BODY
from ipc_schema.kernel.filter import FILTER_SUBSCRIBERS, FilterSubscriber, FilterSubscribersReply
from ipc_schema.server import Answer, Call, Route
from kernel_proc.protocols.filter.subscriptions import Subscriptions

_ROOM: Final = MAX_BODY - 4096
_MAX_CRITERIA: Final = 16_000
"""Of all subscribers in one reply: the contract's limit for an array."""


def filter_service_routes(table: Subscriptions | None) -> Mapping[str, Route]:
    """Return the method. `table` None: this node has no filter service."""

    def subscribers(_call: Call) -> Answer:
        if table is None:
            raise IpcError(ErrorCode.NOT_READY, "filter is off on this node", retriable=False)
        found = (
            FilterSubscriber(peer=peer, criteria=tuple(table.criteria_of(peer))) for peer in table.peers()
        )
        return FilterSubscribersReply(subscribers=_fitting(found), total=len(table)).to_body(), ()

    return {FILTER_SUBSCRIBERS: Route(subscribers)}


def _fitting(subscribers: Iterable[FilterSubscriber]) -> tuple[FilterSubscriber, ...]:
    """Return the first subscribers that fit into one reply: the length of their topics is up to the peers."""
    found: list[FilterSubscriber] = []
    room, criteria = _ROOM, _MAX_CRITERIA
    for one in subscribers:
        room -= len(packb(one.to_body()))
        criteria -= len(one.criteria)
        if room < 0 or criteria < 0:
            break
        found.append(one)
    return tuple(found)
