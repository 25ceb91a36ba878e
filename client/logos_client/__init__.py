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

from importlib import import_module
from typing import TYPE_CHECKING

from ipc_schema.control import ControlHealthReply
from ipc_schema.errors import ErrorCode
from ipc_schema.hello import NetworkInfo, SeenPosition
from ipc_schema.mapi.channels import ChannelInfo, ChannelStatusReply, PendingChannelSend
from ipc_schema.mapi.methods import ConnectionStatus, MapiLimits, PendingReply, PendingSend, StatusReply
from ipc_schema.message import WakuMessage
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, kernel_endpoints, mapi_endpoints
from logos_client._opening import Opening
from logos_client._stream import Position, StreamCounters
from logos_client.control import ControlClient
from logos_client.events import (
    ChannelDeliveryError,
    ChannelMessageDelivered,
    ChannelMessageError,
    ChannelMessageLost,
    ChannelMessageReceived,
    ChannelMessageSent,
    ChannelSegmentReceived,
    ChannelSync,
    ConnectionStatusChange,
    ContentTopicHealthChange,
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageQueued,
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
from logos_client.messaging import DEFAULT_CREDIT, AckMode, MessagingClient

if TYPE_CHECKING:
    __version__: str
    from logos_client._kernel_half import (
        DEFAULT_FEED_BYTES,
        SOURCE_FILTER,
        SOURCE_RELAY,
        SOURCE_SELF,
        ConnectResult,
        DiscoveryRunning,
        DiscoveryStatus,
        Discv5Record,
        EnrRecord,
        FeedCounters,
        FilterPeer,
        FilterPingReply,
        FilterSubscribeReply,
        FilterUnsubscribeReply,
        FindNodeReply,
        HealthEvent,
        KernelClient,
        KernelEvent,
        KernelFeed,
        KernelFound,
        KernelLimits,
        KernelLost,
        KernelMessage,
        KnownPeersReply,
        KnownRecord,
        LightpushPublishReply,
        ListRecord,
        ListReply,
        NodeHealth,
        OptionRecord,
        PeerChange,
        PeerEvent,
        PeerExchangeReply,
        PeerRecord,
        PeersSnapshot,
        RelayPublishReply,
        StoredMessage,
        StoreImportReply,
        StorePage,
        StoreSessionRecord,
        StoreStatusReply,
        StoreVerifyReply,
        StreamLoss,
        StreamState,
        TopicHealth,
    )
else:
    # Imported lazily: an app of the Messaging API needs no kernel types. Without them the import takes three
    # quarters of the time, and the process 1.4 MB less.
    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            return _version()
        value = globals()[name] = getattr(import_module("logos_client._kernel_half"), name)
        return value

    def _version() -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("logos-client")
        except PackageNotFoundError:  # run from a source tree that is not installed
            return "0+unknown"

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "DEFAULT_CREDIT",
    "DEFAULT_FEED_BYTES",
    "SOURCE_FILTER",
    "SOURCE_RELAY",
    "SOURCE_SELF",
    "AckMode",
    "BadRequestError",
    "BusyError",
    "ChannelDeliveryError",
    "ChannelInfo",
    "ChannelMessageDelivered",
    "ChannelMessageError",
    "ChannelMessageLost",
    "ChannelMessageReceived",
    "ChannelMessageSent",
    "ChannelSegmentReceived",
    "ChannelStatusReply",
    "ChannelSync",
    "ClosedError",
    "ConflictError",
    "ConnectResult",
    "ConnectionStatus",
    "ConnectionStatusChange",
    "ContentTopicHealthChange",
    "ControlClient",
    "ControlHealthReply",
    "DeadlineError",
    "DiscoveryRunning",
    "DiscoveryStatus",
    "Discv5Record",
    "EnrRecord",
    "EpochChangedError",
    "ErrorCode",
    "Event",
    "EventsDropped",
    "FeedCounters",
    "FilterPeer",
    "FilterPingReply",
    "FilterSubscribeReply",
    "FilterUnsubscribeReply",
    "FindNodeReply",
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
    "KnownPeersReply",
    "KnownRecord",
    "LightpushPublishReply",
    "LinkLost",
    "LinkRestored",
    "ListRecord",
    "ListReply",
    "LogosError",
    "MapiEndpoints",
    "MapiLimits",
    "MessageCancelled",
    "MessageError",
    "MessagePropagated",
    "MessageQueued",
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
    "PendingChannelSend",
    "PendingReply",
    "PendingSend",
    "Position",
    "RateLimitedError",
    "RelayPublishReply",
    "RequestError",
    "ResyncingError",
    "RlnRequiredError",
    "SeenPosition",
    "StatusReply",
    "StoreImportReply",
    "StorePage",
    "StoreSessionRecord",
    "StoreStatusReply",
    "StoreVerifyReply",
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
    "__version__",
    "kernel_endpoints",
    "mapi_endpoints",
]
