"""Requests and replies of the Messaging API's app socket (SPEC.md, "Messaging API").

`METHODS` maps each method's name to its two types; see `kernel.methods` for how they are used.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Annotated, Final

from ipc_schema.body import Bin16, Bin32, Body, Empty, Method, Ns, Range, Size, Uint
from ipc_schema.hello import HELLO, HelloReply, HelloRequest, Limits
from ipc_schema.mapi.channels import CHANNEL_METHODS
from ipc_schema.mapi.send_many import SEND_MANY, SendManyReply, SendManyRequest
from ipc_schema.message import MAX_META_SIZE
from ipc_schema.names import MAX_NAME
from ipc_schema.node_info import NODE_INFO, NodeInfoReply, NodeInfoRequest

__all__ = [
    "ACK",
    "CANCEL",
    "CREDIT",
    "FEATURE_FIND_SEND",
    "FEATURE_SEND_TIMESTAMP",
    "FIND_SEND",
    "FORGET",
    "GOODBYE",
    "HELLO",
    "MAX_HISTORY_MS",
    "MAX_PENDING",
    "MAX_TIMESTAMP_LEAD_NS",
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
    "FindSendReply",
    "FindSendRequest",
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
    "request_id_at",
]

SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"
SUBSCRIPTIONS: Final = "subscriptions"
SEND: Final = "send"
ACK: Final = "ack"
CREDIT: Final = "credit"
STATUS: Final = "status"
PENDING: Final = "pending"
FIND_SEND: Final = "find_send"
CANCEL: Final = "cancel"
PING: Final = "ping"
FORGET: Final = "forget"
MAX_HISTORY_MS: Final = 366 * 24 * 3600 * 1000
"""Longest time back for which history can be requested."""
MAX_PENDING: Final = 1000
"""Most sends in one reply of `pending`."""
GOODBYE: Final = "goodbye"
FEATURE_SEND_TIMESTAMP: Final = "send_timestamp"
"""In a hello's `features`: `send` takes a timestamp."""
FEATURE_FIND_SEND: Final = "find_send"
"""In a hello's `features`: the method `find_send`."""
MAX_TIMESTAMP_LEAD_NS: Final = 20_000_000_000
"""How far ahead of the server's clock the timestamp of a send may be: beyond it, stores refuse the message
(13/WAKU2-STORE)."""


class ConnectionStatus(StrEnum):
    """Values of `connection`. Readers accept others: the field is text."""

    DISCONNECTED = "Disconnected"
    PARTIALLY_CONNECTED = "PartiallyConnected"
    CONNECTED = "Connected"


class MapiLimits(Limits):
    """Limits of a Messaging API: topics per app, payload bytes that certainly fit, life of a send."""

    topics: Uint
    max_payload: Uint
    send_window_ms: Uint


class StreamPosition(Body):
    """Position of an app's stream: delivery continues at `acked` + 1; `last` is the last seq assigned."""

    id: Bin16
    acked: Uint
    last: Uint


class StatusReply(Body):
    """`connection` is a `ConnectionStatus`, the values of `topics` are `TopicHealth`."""

    connection: str
    reason: str = ""
    resyncing: bool = False
    topics: dict[str, str]
    more: bool | None = None


class MapiHello(HelloReply):
    """Reply of the Messaging API's hello. `app`: the app's name, generated for an ephemeral one."""

    limits: MapiLimits
    app: str
    durable: bool
    stream: StreamPosition
    subscriptions: tuple[str, ...] = ()
    more: bool | None = None
    status: StatusReply


class SubscribeRequest(Body):
    """Topics, and the history wanted: since the app left the topic, or of the last `history_ms`
    milliseconds."""

    topics: tuple[str, ...]
    since_last: bool = False
    history_ms: Annotated[int, Range(0, MAX_HISTORY_MS)] = 0


class UnsubscribeRequest(Body):
    topics: tuple[str, ...]


class SubscribeReply(Body):
    """Topic → why it was refused; the others took effect."""

    errors: dict[str, str]


class SubscriptionsRequest(Body):
    """`after`: the last topic of the part before."""

    after: str = ""


class StatusRequest(Body):
    """`after`: the last topic of the part before."""

    after: str = ""


class SubscriptionsReply(Body):
    """Sorted. `more`: there are others behind the last one."""

    topics: tuple[str, ...]
    more: bool | None = None


class SendRequest(Body):
    """Send blob 0. The request id is minted by the app and is its idempotency key.

    `timestamp` fixes the message's, and with it the hash, before the first attempt; None: that attempt does.
    """

    request_id: Bin16
    content_topic: str
    meta: Annotated[bytes, Size(MAX_META_SIZE)] = b""
    ephemeral: bool = False
    timestamp: Annotated[int, Range(1, 2**63 - 1)] | None = None


def request_id_at(time_ns: int, random: bytes) -> bytes:
    """Make a request id of a time and 10 random bytes, in the form of a ULID.

    Any 16 bytes will do, but the server looks ids up in an ordered index: those that grow with time are
    inserted at its end, and random ones touch another page of it each.
    """
    return (time_ns // 1_000_000 & 0xFFFF_FFFF_FFFF).to_bytes(6, "big") + random


class SendReply(Body):
    """The send is accepted; `repeated`: it had been accepted before under this id."""

    request_id: Bin16
    repeated: bool = False


class PendingSend(Body):
    """An accepted send that is not final. `state`: `parked` (not attempted), `attempted`, `retry`,
    `propagated`; from `find_send` also the final ones: `sent`, `unconfirmed`, `failed`, `cancelled`.

    `message_hash` and `timestamp` are fixed by the first attempt. `cause`: why the last attempt failed, or
    why no store has confirmed it yet; of a final one why it failed or stayed unconfirmed.
    """

    request_id: Bin16
    content_topic: str
    state: str
    accepted_ns: Ns
    attempts: Uint = 0
    message_hash: Bin32 | None = None
    timestamp: Ns | None = None
    cause: str = ""


class PendingReply(Body):
    """The oldest of the app's sends that are not final, at most 1,000, and their number in all and by
    state."""

    sends: Annotated[tuple[PendingSend, ...], Size(MAX_PENDING)]
    total: Uint
    states: dict[str, int] = field(default_factory=dict)


class PendingRequest(Body):
    """`name`: a named app of the same uid; None: the requesting app."""

    name: Annotated[str, Size(MAX_NAME, 1)] | None = None


class FindSendRequest(Body):
    """Find a send by its request id; `name` as in `PendingRequest`."""

    request_id: Bin16
    name: Annotated[str, Size(MAX_NAME, 1)] | None = None


class FindSendReply(Body):
    """The send, final or not. None: it was not accepted, or a day ago, after which ids are forgotten."""

    send: PendingSend | None = None


class CancelRequest(Body):
    """Cancel a send before its first attempt; `name` as in `PendingRequest`."""

    request_id: Bin16
    name: Annotated[str, Size(MAX_NAME, 1)] | None = None


class CancelReply(Body):
    """False: too late, or there is no such send."""

    cancelled: bool


class AckRequest(Body):
    """Acknowledge everything up to `seq` of the stream."""

    stream: Bin16
    seq: Uint


class AckReply(Body):
    """The stream's position now."""

    acked: Uint


class CreditRequest(Body):
    """Total bytes granted since the hello."""

    total: Uint


class ForgetRequest(Body):
    """Delete the app of this name and the same uid."""

    name: Annotated[str, Size(MAX_NAME, 1)]


METHODS: Final[dict[str, Method]] = {
    HELLO: Method(HelloRequest, MapiHello),
    SUBSCRIBE: Method(SubscribeRequest, SubscribeReply),
    UNSUBSCRIBE: Method(UnsubscribeRequest, SubscribeReply),
    SUBSCRIPTIONS: Method(SubscriptionsRequest, SubscriptionsReply),
    SEND: Method(SendRequest, SendReply),
    SEND_MANY: Method(SendManyRequest, SendManyReply),
    ACK: Method(AckRequest, AckReply),
    CREDIT: Method(CreditRequest, Empty),
    STATUS: Method(StatusRequest, StatusReply),
    NODE_INFO: Method(NodeInfoRequest, NodeInfoReply),
    PENDING: Method(PendingRequest, PendingReply),
    FIND_SEND: Method(FindSendRequest, FindSendReply),
    CANCEL: Method(CancelRequest, CancelReply),
    PING: Method(Empty, Empty),
    FORGET: Method(ForgetRequest, Empty),
    GOODBYE: Method(Empty, Empty),
    **CHANNEL_METHODS,
}
