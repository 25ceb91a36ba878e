"""Thin clients of Logos Delivery's processes, over ZeroMQ.

- `MessagingClient`: an app's: subscribe to content topics, send, receive; see `logos_client.messaging`.
- `KernelClient`: an operator's tool's, or that of a program that wants the bare relay; see
  `logos_client.kernel`.
- `ControlClient`: health, shutdown and log level of either process.

All are asyncio objects of the loop that made them; `logos_client.blocking` has the same for threads and
scripts. Events are in `logos_client.events` and `logos_client.kernel_events`, errors in
`logos_client.exceptions`; everything of them, and every type that a method takes or gives, is here as well.
"""

from __future__ import annotations

from ipc_schema.control import ControlHealthReply
from ipc_schema.errors import ErrorCode
from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.filter import (
    FilterPeer,
    FilterPingReply,
    FilterSubscribeReply,
    FilterUnsubscribeReply,
)
from ipc_schema.kernel.lightpush import LightpushPublishReply
from ipc_schema.kernel.methods import ConnectResult, KernelLimits, OptionRecord, RelayPublishReply
from ipc_schema.kernel.peer_exchange import PeerExchangeReply
from ipc_schema.kernel.records import NodeHealth, PeerChange, PeerRecord, TopicHealth
from ipc_schema.kernel.store import StoredMessage
from ipc_schema.mapi.methods import ConnectionStatus, MapiLimits, PendingReply, PendingSend, StatusReply
from ipc_schema.message import WakuMessage
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, kernel_endpoints, mapi_endpoints
from ipc_schema.streams import StreamState
from logos_client._feed import FeedCounters
from logos_client._opening import Opening
from logos_client._stream import Position, StreamCounters
from logos_client.control import ControlClient
from logos_client.events import (
    ConnectionStatusChange,
    ContentTopicHealthChange,
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageReceived,
    MessageSent,
    MessagesMissed,
    MessageUnconfirmed,
    StreamEvent,
    TakenOver,
)
from logos_client.exceptions import (
    BadRequestError,
    BusyError,
    ClosedError,
    ConflictError,
    DeadlineError,
    EpochChangedError,
    ForkedError,
    InternalError,
    LogosError,
    NoPeersError,
    NotReadyError,
    PeerRestartedError,
    RateLimitedError,
    RequestError,
    ResyncingError,
    RlnRequiredError,
    StreamError,
    TemporaryError,
    TooLargeError,
    TrimmedError,
    UnauthorisedError,
    UnknownMethodError,
    UnsupportedVersionError,
)
from logos_client.kernel import DEFAULT_FEED_BYTES, KernelClient, KernelFeed, StorePage
from logos_client.kernel_events import (
    SOURCE_FILTER,
    SOURCE_RELAY,
    SOURCE_SELF,
    HealthEvent,
    KernelEvent,
    KernelFound,
    KernelLost,
    KernelMessage,
    PeerEvent,
    PeersSnapshot,
    StreamLoss,
)
from logos_client.messaging import DEFAULT_CREDIT, AckMode, MessagingClient

__all__ = [
    "DEFAULT_CREDIT",
    "DEFAULT_FEED_BYTES",
    "SOURCE_FILTER",
    "SOURCE_RELAY",
    "SOURCE_SELF",
    "AckMode",
    "BadRequestError",
    "BusyError",
    "ClosedError",
    "ConflictError",
    "ConnectResult",
    "ConnectionStatus",
    "ConnectionStatusChange",
    "ContentTopicHealthChange",
    "ControlClient",
    "ControlHealthReply",
    "DeadlineError",
    "EpochChangedError",
    "ErrorCode",
    "Event",
    "EventsDropped",
    "FeedCounters",
    "FilterPeer",
    "FilterPingReply",
    "FilterSubscribeReply",
    "FilterUnsubscribeReply",
    "ForkedError",
    "HealthEvent",
    "InternalError",
    "KernelClient",
    "KernelEndpoints",
    "KernelEvent",
    "KernelFeed",
    "KernelFound",
    "KernelLimits",
    "KernelLost",
    "KernelMessage",
    "LightpushPublishReply",
    "LinkLost",
    "LinkRestored",
    "LogosError",
    "MapiEndpoints",
    "MapiLimits",
    "MessageCancelled",
    "MessageError",
    "MessagePropagated",
    "MessageReceived",
    "MessageSent",
    "MessageUnconfirmed",
    "MessagesMissed",
    "MessagingClient",
    "NetworkInfo",
    "NoPeersError",
    "NodeHealth",
    "NotReadyError",
    "Opening",
    "OptionRecord",
    "PeerChange",
    "PeerEvent",
    "PeerExchangeReply",
    "PeerRecord",
    "PeerRestartedError",
    "PeersSnapshot",
    "PendingReply",
    "PendingSend",
    "Position",
    "RateLimitedError",
    "RelayPublishReply",
    "RequestError",
    "ResyncingError",
    "RlnRequiredError",
    "StatusReply",
    "StorePage",
    "StoredMessage",
    "StreamCounters",
    "StreamError",
    "StreamEvent",
    "StreamLoss",
    "StreamState",
    "TakenOver",
    "TemporaryError",
    "TooLargeError",
    "TopicHealth",
    "TrimmedError",
    "UnauthorisedError",
    "UnknownMethodError",
    "UnsupportedVersionError",
    "WakuMessage",
    "kernel_endpoints",
    "mapi_endpoints",
]
