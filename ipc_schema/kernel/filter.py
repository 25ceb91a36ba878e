"""`filter.*`: messages pushed by other nodes, and the peers that this node pushes to (SPEC.md §3.3)."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Body, Empty, Method, Size, Uint
from ipc_schema.kernel.values import PeerName, Shard

__all__ = [
    "FILTER_PING",
    "FILTER_SUBSCRIBE",
    "FILTER_SUBSCRIBERS",
    "FILTER_UNSUBSCRIBE",
    "MAX_FILTER_EXCLUDED",
    "MAX_FILTER_TOPICS",
    "METHODS",
    "FilterPeer",
    "FilterPingReply",
    "FilterPingRequest",
    "FilterSubscribeReply",
    "FilterSubscribeRequest",
    "FilterSubscriber",
    "FilterSubscribersReply",
    "FilterUnsubscribeReply",
    "FilterUnsubscribeRequest",
    "Held",
]

FILTER_SUBSCRIBE: Final = "filter.subscribe"
FILTER_UNSUBSCRIBE: Final = "filter.unsubscribe"
FILTER_PING: Final = "filter.ping"
FILTER_SUBSCRIBERS: Final = "filter.subscribers"

MAX_FILTER_TOPICS: Final = 1000
"""Most content topics in one request: what services allow one subscriber in total."""
MAX_FILTER_EXCLUDED: Final = 64

_Topic = Annotated[str, Size(1024, 1)]

Held = dict[str, dict[str, tuple[str, ...]]]
"""Pubsub topic → peer id → content topics that the peer holds for the requesting consumer."""


class FilterSubscribeRequest(Body):
    """Subscribe at a peer to these content topics of one shard, on which the consumer must hold a lease.

    Without topic and shard, autosharding decides; all content topics must then belong to one shard. `peer`
    is a peer id or a multiaddr; None: good peers that are not in `exclude` are tried until one succeeds.
    """

    content_topics: Annotated[tuple[_Topic, ...], Size(MAX_FILTER_TOPICS)]
    pubsub_topic: str | None = None
    shard: Shard | None = None
    peer: PeerName | None = None
    exclude: Annotated[tuple[PeerName, ...], Size(MAX_FILTER_EXCLUDED)] = ()


class FilterSubscribeReply(Body):
    """`peer` holds the subscription; `held`: all that peers hold for the consumer on that pubsub topic."""

    peer: PeerName
    pubsub_topic: str
    held: Held


class FilterUnsubscribeRequest(Body):
    """Unsubscribe from content topics (none given: all) of one shard (none given: of the shard they belong
    to, or of every shard), at one peer or at all of them."""

    content_topics: Annotated[tuple[_Topic, ...], Size(MAX_FILTER_TOPICS)] = ()
    pubsub_topic: str | None = None
    shard: Shard | None = None
    peer: PeerName | None = None


class FilterUnsubscribeReply(Body):
    """`held`: what is left.

    `errors`: peer → why it could not be notified; the subscription is dropped all the same.
    """

    held: Held
    errors: dict[str, str]


class FilterPingRequest(Body):
    """Ask one peer, or all that hold something for the consumer, whether they still do."""

    peer: PeerName | None = None


class FilterPeer(Body):
    """One peer's answer: `status` 200 it does, 404 it does not, None: no answer, `error` says why."""

    peer: PeerName
    status: Uint | None = None
    error: str | None = None


class FilterPingReply(Body):
    """`held`: what peers hold for the consumer after the ping."""

    peers: tuple[FilterPeer, ...]
    held: Held


class FilterSubscriber(Body):
    """A light client of this node's filter service; `criteria`: (pubsub topic, content topic) of each
    subscription."""

    peer: PeerName
    criteria: tuple[tuple[str, str], ...]


class FilterSubscribersReply(Body):
    """As many light clients as fit in a reply; `total`: how many there are."""

    subscribers: tuple[FilterSubscriber, ...]
    total: Uint


METHODS: Final[dict[str, Method]] = {
    FILTER_SUBSCRIBE: Method(FilterSubscribeRequest, FilterSubscribeReply),
    FILTER_UNSUBSCRIBE: Method(FilterUnsubscribeRequest, FilterUnsubscribeReply),
    FILTER_PING: Method(FilterPingRequest, FilterPingReply),
    FILTER_SUBSCRIBERS: Method(Empty, FilterSubscribersReply),
}
