"""Thin clients of Logos Delivery's processes, over ZeroMQ.

- `MessagingClient`: an app's: subscribe to content topics, send, receive; see `logos_client.messaging`.
- `KernelClient`: an operator's tool's, or that of a program that wants the bare relay; see
  `logos_client.kernel`.
- `ControlClient`: health, shutdown and log level of either process.

All are asyncio objects of the loop that made them. Events are in `logos_client.events` and
`logos_client.kernel_events`, errors in `logos_client.exceptions`; what apps use of them is here as well.
"""

from __future__ import annotations

from ipc_schema.hello import NetworkInfo
from ipc_schema.kernel.methods import ConnectResult, OptionRecord, RelayPublishReply
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.mapi.methods import ConnectionStatus, StatusReply
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, kernel_endpoints, mapi_endpoints
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
from logos_client.kernel import KernelClient, KernelFeed
from logos_client.kernel_events import (
    HealthEvent,
    KernelEvent,
    KernelFound,
    KernelLost,
    KernelMessage,
    PeerEvent,
    PeersSnapshot,
    StreamLoss,
)
from logos_client.messaging import MessagingClient

__all__ = [
    "BadRequestError",
    "BusyError",
    "ClosedError",
    "ConflictError",
    "ConnectResult",
    "ConnectionStatus",
    "ConnectionStatusChange",
    "ContentTopicHealthChange",
    "ControlClient",
    "DeadlineError",
    "EpochChangedError",
    "Event",
    "EventsDropped",
    "HealthEvent",
    "InternalError",
    "KernelClient",
    "KernelEndpoints",
    "KernelEvent",
    "KernelFeed",
    "KernelFound",
    "KernelLost",
    "KernelMessage",
    "LinkLost",
    "LinkRestored",
    "LogosError",
    "MapiEndpoints",
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
    "OptionRecord",
    "PeerEvent",
    "PeerRecord",
    "PeerRestartedError",
    "PeersSnapshot",
    "RateLimitedError",
    "RelayPublishReply",
    "RequestError",
    "ResyncingError",
    "RlnRequiredError",
    "StatusReply",
    "StreamError",
    "StreamEvent",
    "StreamLoss",
    "TakenOver",
    "TemporaryError",
    "TooLargeError",
    "TrimmedError",
    "UnauthorisedError",
    "UnknownMethodError",
    "UnsupportedVersionError",
    "kernel_endpoints",
    "mapi_endpoints",
]
