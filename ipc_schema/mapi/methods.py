"""Requests and replies of the Messaging API's app socket (SPEC.md, "Messaging API").

`METHODS` maps each method's name to its two types; see `kernel.methods` for how they are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from ipc_schema.body import Bin16, Bin32, Body, Empty, Method, Ns, Range, Size, Uint
from ipc_schema.hello import HELLO, HelloReply, HelloRequest, Limits
from ipc_schema.mapi.channels import CHANNEL_METHODS
from ipc_schema.message import MAX_META_SIZE
from ipc_schema.names import MAX_NAME
from ipc_schema.node_info import NODE_INFO, NodeInfoReply, NodeInfoRequest

__all__ = [
    "ACK",
    "CANCEL",
    "CREDIT",
    "FORGET",
    "GOODBYE",
    "HELLO",
    "MAX_HISTORY_MS",
    "MAX_PENDING",
    "METHODS",
    "NODE_INFO",
    "PENDING",
    "PING",
    "SEND",
    "STATUS",
    "SUBSCRIBE",
    "SUBSCRIPTIONS",
    "UNSUBSCRIBE",
    "AckReply",
    "AckRequest",
    "CancelReply",
    "CancelRequest",
    "ConnectionStatus",
    "CreditRequest",
    "ForgetRequest",
    "MapiHello",
    "MapiLimits",
    "NodeInfoReply",
    "NodeInfoRequest",
    "PendingReply",
    "PendingRequest",
    "PendingSend",
    "SendReply",
    "SendRequest",
    "StatusReply",
    "StatusRequest",
    "StreamPosition",
    "SubscribeReply",
    "SubscribeRequest",
    "SubscriptionsReply",
    "SubscriptionsRequest",
    "UnsubscribeRequest",
]

SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"
SUBSCRIPTIONS: Final = "subscriptions"
SEND: Final = "send"
ACK: Final = "ack"
CREDIT: Final = "credit"
STATUS: Final = "status"
PENDING: Final = "pending"
CANCEL: Final = "cancel"
PING: Final = "ping"
FORGET: Final = "forget"
MAX_HISTORY_MS: Final = 366 * 24 * 3600 * 1000
"""Longest time back that history can be asked for."""
MAX_PENDING: Final = 1000
"""Most sends in one reply of `pending`."""
GOODBYE: Final = "goodbye"


class ConnectionStatus(StrEnum):
    """Values of `connection`. Readers take others as they come: the field is text."""

    DISCONNECTED = "Disconnected"
    PARTIALLY_CONNECTED = "PartiallyConnected"
    CONNECTED = "Connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapiLimits(Limits):
    """Limits of a Messaging API: topics per app, payload bytes that surely fit, life of a send."""

    topics: Uint
    max_payload: Uint
    send_window_ms: Uint


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPosition(Body):
    """An app's stream: delivery goes on at `acked` + 1; `last` is the last seq given."""

    id: Bin16
    acked: Uint
    last: Uint


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReply(Body):
    """`connection` is a `ConnectionStatus`, the values of `topics` are `TopicHealth`. `more`: the topics are
    the first of several parts."""

    connection: str
    reason: str = ""
    resyncing: bool = False
    topics: dict[str, str]
    more: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapiHello(HelloReply):
    """Reply of the Messaging API's hello. `app`: the app's name, made up for an ephemeral one. `more`: the
    subscriptions are the first of several parts."""

    limits: MapiLimits
    app: str
    durable: bool
    stream: StreamPosition
    subscriptions: tuple[str, ...] = ()
    more: bool | None = None
    status: StatusReply


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeRequest(Body):
    """Topics, and what of the past is wanted: what came since the app left the topic, or in the last
    `history_ms` milliseconds."""

    WHERE = SUBSCRIBE

    topics: tuple[str, ...]
    since_last: bool = False
    history_ms: Annotated[int, Range(0, MAX_HISTORY_MS)] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeRequest(Body):
    WHERE = UNSUBSCRIBE

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeReply(Body):
    """Topic → why it was refused; the others took effect."""

    errors: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionsRequest(Body):
    """`after`: the last topic of the part before."""

    WHERE = SUBSCRIPTIONS

    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRequest(Body):
    """`after`: the last topic of the part before."""

    WHERE = STATUS

    after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionsReply(Body):
    """Sorted. `more`: there are others behind the last one."""

    topics: tuple[str, ...]
    more: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest(Body):
    """Send blob 0. The request id is the app's own, and its idempotency key."""

    WHERE = SEND

    request_id: Bin16
    content_topic: str
    meta: Annotated[bytes, Size(MAX_META_SIZE)] = b""
    ephemeral: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReply(Body):
    """Accepted; `repeated`: it was accepted before under this id."""

    request_id: Bin16
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSend(Body):
    """An accepted send that has no fate yet. `state`: `parked` (not attempted), `attempted`, `retry`,
    `propagated`.

    `message_hash` and `timestamp` are fixed by the first attempt. `cause`: why the last attempt failed, or
    why no store has confirmed it so far.
    """

    request_id: Bin16
    content_topic: str
    state: str
    accepted_ns: Ns
    attempts: Uint = 0
    message_hash: Bin32 | None = None
    timestamp: Ns | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingReply(Body):
    """The oldest of the app's sends without a fate, at most 1,000, and how many there are in all and in each
    state."""

    sends: Annotated[tuple[PendingSend, ...], Size(MAX_PENDING)]
    total: Uint
    states: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRequest(Body):
    """`name`: of that named app of the same uid; None: of the app that asks."""

    WHERE = PENDING

    name: Annotated[str, Size(MAX_NAME, 1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest(Body):
    """Cancel a send that was not attempted yet; `name` as in `PendingRequest`."""

    WHERE = CANCEL

    request_id: Bin16
    name: Annotated[str, Size(MAX_NAME, 1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReply(Body):
    """False: too late, or there is no such send."""

    cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AckRequest(Body):
    """Everything up to `seq` of the stream is done with."""

    WHERE = ACK

    stream: Bin16
    seq: Uint


@dataclass(frozen=True, slots=True, kw_only=True)
class AckReply(Body):
    """The stream's position now."""

    acked: Uint


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRequest(Body):
    """Bytes granted since the hello, all together."""

    WHERE = CREDIT

    total: Uint


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequest(Body):
    """Name of an app of the same uid that is to be gone."""

    WHERE = FORGET

    name: Annotated[str, Size(MAX_NAME, 1)]


METHODS: Final[dict[str, Method]] = {
    HELLO: Method(HelloRequest, MapiHello),
    SUBSCRIBE: Method(SubscribeRequest, SubscribeReply),
    UNSUBSCRIBE: Method(UnsubscribeRequest, SubscribeReply),
    SUBSCRIPTIONS: Method(SubscriptionsRequest, SubscriptionsReply),
    SEND: Method(SendRequest, SendReply),
    ACK: Method(AckRequest, AckReply),
    CREDIT: Method(CreditRequest, Empty),
    STATUS: Method(StatusRequest, StatusReply),
    NODE_INFO: Method(NodeInfoRequest, NodeInfoReply),
    PENDING: Method(PendingRequest, PendingReply),
    CANCEL: Method(CancelRequest, CancelReply),
    PING: Method(Empty, Empty),
    FORGET: Method(ForgetRequest, Empty),
    GOODBYE: Method(Empty, Empty),
    **CHANNEL_METHODS,
}
