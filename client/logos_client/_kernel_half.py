"""The package's exports about kernels, imported when one of them is first used; see
`logos_client.__init__`.
"""

from __future__ import annotations

from ipc_schema.kernel.discovery import DiscoveryRunning as DiscoveryRunning
from ipc_schema.kernel.discovery import DiscoveryStatus as DiscoveryStatus
from ipc_schema.kernel.discovery import Discv5Record as Discv5Record
from ipc_schema.kernel.discovery import EnrRecord as EnrRecord
from ipc_schema.kernel.discovery import FindNodeReply as FindNodeReply
from ipc_schema.kernel.discovery import KnownPeersReply as KnownPeersReply
from ipc_schema.kernel.discovery import KnownRecord as KnownRecord
from ipc_schema.kernel.discovery import ListRecord as ListRecord
from ipc_schema.kernel.discovery import ListReply as ListReply
from ipc_schema.kernel.filter import FilterPeer as FilterPeer
from ipc_schema.kernel.filter import FilterPingReply as FilterPingReply
from ipc_schema.kernel.filter import FilterSubscribeReply as FilterSubscribeReply
from ipc_schema.kernel.filter import FilterUnsubscribeReply as FilterUnsubscribeReply
from ipc_schema.kernel.lightpush import LightpushPublishReply as LightpushPublishReply
from ipc_schema.kernel.methods import ConnectResult as ConnectResult
from ipc_schema.kernel.methods import KernelLimits as KernelLimits
from ipc_schema.kernel.methods import OptionRecord as OptionRecord
from ipc_schema.kernel.peer_exchange import PeerExchangeReply as PeerExchangeReply
from ipc_schema.kernel.records import NodeHealth as NodeHealth
from ipc_schema.kernel.records import PeerChange as PeerChange
from ipc_schema.kernel.records import PeerRecord as PeerRecord
from ipc_schema.kernel.records import TopicHealth as TopicHealth
from ipc_schema.kernel.relay import RelayPublishReply as RelayPublishReply
from ipc_schema.kernel.store import StoredMessage as StoredMessage
from ipc_schema.kernel.store_admin import StoreImportReply as StoreImportReply
from ipc_schema.kernel.store_admin import StoreSessionRecord as StoreSessionRecord
from ipc_schema.kernel.store_admin import StoreStatusReply as StoreStatusReply
from ipc_schema.kernel.store_admin import StoreVerifyReply as StoreVerifyReply
from ipc_schema.streams import StreamState as StreamState
from logos_client._feed import FeedCounters as FeedCounters
from logos_client.kernel import *
from logos_client.kernel_events import *
