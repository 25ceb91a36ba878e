"""The package's exports about kernels, imported when one of them is first used; see
`logos_client.__init__`.
"""

from __future__ import annotations

from ipc_schema.kernel.discovery import (
    DiscoveryRunning,
    DiscoveryStatus,
    Discv5Record,
    EnrRecord,
    FindNodeReply,
    KnownPeersReply,
    KnownRecord,
    ListRecord,
    ListReply,
)
from ipc_schema.kernel.filter import (
    FilterPeer,
    FilterPingReply,
    FilterSubscribeReply,
    FilterUnsubscribeReply,
)
from ipc_schema.kernel.lightpush import LightpushPublishReply
from ipc_schema.kernel.methods import ConnectResult, KernelLimits, OptionRecord
from ipc_schema.kernel.peer_exchange import PeerExchangeReply
from ipc_schema.kernel.records import NodeHealth, PeerChange, PeerRecord, TopicHealth
from ipc_schema.kernel.relay import RelayPublishReply
from ipc_schema.kernel.store import StoredMessage
from ipc_schema.kernel.store_admin import (
    StoreImportReply,
    StoreSessionRecord,
    StoreStatusReply,
    StoreVerifyReply,
)
from ipc_schema.streams import StreamState
from logos_client._feed import FeedCounters
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

__all__ = [
    "DEFAULT_FEED_BYTES",
    "SOURCE_FILTER",
    "SOURCE_RELAY",
    "SOURCE_SELF",
    "ConnectResult",
    "DiscoveryRunning",
    "DiscoveryStatus",
    "Discv5Record",
    "EnrRecord",
    "FeedCounters",
    "FilterPeer",
    "FilterPingReply",
    "FilterSubscribeReply",
    "FilterUnsubscribeReply",
    "FindNodeReply",
    "HealthEvent",
    "KernelClient",
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
    "NodeHealth",
    "OptionRecord",
    "PeerChange",
    "PeerEvent",
    "PeerExchangeReply",
    "PeerRecord",
    "PeersSnapshot",
    "RelayPublishReply",
    "StoreImportReply",
    "StorePage",
    "StoreSessionRecord",
    "StoreStatusReply",
    "StoreVerifyReply",
    "StoredMessage",
    "StreamLoss",
    "StreamState",
    "TopicHealth",
]
