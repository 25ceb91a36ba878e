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
from logos_client import events, exceptions
from logos_client._opening import Opening
from logos_client._stream_types import Position, StreamCounters
from logos_client.control import ControlClient
from logos_client.events import *
from logos_client.exceptions import *
from logos_client.messaging import DEFAULT_CREDIT, AckMode, MessagingClient

if TYPE_CHECKING:
    __version__: str
    from logos_client._kernel_half import *
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
    "ChannelInfo",
    "ChannelStatusReply",
    "ConnectResult",
    "ConnectionStatus",
    "ControlClient",
    "ControlHealthReply",
    "DiscoveryRunning",
    "DiscoveryStatus",
    "Discv5Record",
    "EnrRecord",
    "ErrorCode",
    "FeedCounters",
    "FilterPeer",
    "FilterPingReply",
    "FilterSubscribeReply",
    "FilterUnsubscribeReply",
    "FindNodeReply",
    "HealthEvent",
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
    "ListRecord",
    "ListReply",
    "MapiEndpoints",
    "MapiLimits",
    "MessagingClient",
    "NetworkInfo",
    "NodeHealth",
    "Opening",
    "OptionRecord",
    "PeerChange",
    "PeerEvent",
    "PeerExchangeReply",
    "PeerRecord",
    "PeersSnapshot",
    "PendingChannelSend",
    "PendingReply",
    "PendingSend",
    "Position",
    "RelayPublishReply",
    "SeenPosition",
    "StatusReply",
    "StoreImportReply",
    "StorePage",
    "StoreSessionRecord",
    "StoreStatusReply",
    "StoreVerifyReply",
    "StoredMessage",
    "StreamCounters",
    "StreamLoss",
    "StreamState",
    "TopicHealth",
    "WakuMessage",
    "__version__",
    "kernel_endpoints",
    "mapi_endpoints",
]
__all__ += events.__all__
__all__ += exceptions.__all__
