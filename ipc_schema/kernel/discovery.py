"""`discovery.*` and `peers.known`: how the node finds peers, and all peers that it knows (SPEC.md §3.3)."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import Body, Empty, Method, Range, Size, Uint

__all__ = [
    "DISCOVERY_BOOTNODES",
    "DISCOVERY_FIND_NODE",
    "DISCOVERY_LIST",
    "DISCOVERY_START",
    "DISCOVERY_STATUS",
    "DISCOVERY_STOP",
    "MAX_BOOTNODES",
    "MAX_DISTANCE",
    "MAX_DISTANCES",
    "MAX_KNOWN",
    "MAX_LISTED",
    "METHODS",
    "PEERS_KNOWN",
    "BootnodesReply",
    "BootnodesRequest",
    "DiscoveryRunning",
    "DiscoveryStatus",
    "Discv5Record",
    "EnrRecord",
    "FindNodeReply",
    "FindNodeRequest",
    "KnownPeersReply",
    "KnownPeersRequest",
    "KnownRecord",
    "ListRecord",
    "ListReply",
    "ListRequest",
]

DISCOVERY_STATUS: Final = "discovery.status"
DISCOVERY_START: Final = "discovery.start"
DISCOVERY_STOP: Final = "discovery.stop"
DISCOVERY_BOOTNODES: Final = "discovery.bootnodes"
DISCOVERY_LIST: Final = "discovery.list"
DISCOVERY_FIND_NODE: Final = "discovery.find_node"
PEERS_KNOWN: Final = "peers.known"

MAX_BOOTNODES: Final = 64
MAX_KNOWN: Final = 500
"""Most known peers in one reply."""
MAX_LISTED: Final = 500
MAX_DISTANCES: Final = 3
"""Most distances in one FINDNODE (nwaku asks for three)."""
MAX_DISTANCE: Final = 256

_Enr = Annotated[str, Size(420, 1)]
_Url = Annotated[str, Size(400, 1)]


class Discv5Record(Body):
    """State of discv5: `nodes` in its table, of which `verified` have answered; `observed`: our address as
    others see it."""

    running: bool = False
    port: Uint = 0
    nodes: Uint = 0
    verified: Uint = 0
    boot_nodes: Uint = 0
    observed: str = ""


class ListRecord(Body):
    """A signed node list in the DNS (EIP-1459). `read_ms`: when it was read, ms since 1970; 0: not yet."""

    url: str
    seq: Uint = 0
    records: Uint = 0
    read_ms: Uint = 0
    error: str = ""


class DiscoveryStatus(Body):
    """Reply of `discovery.status`.

    `online`: the network was heard from recently. `short`: wanted peers are missing, namely relay peers on
    `short_shards` and peers for `short_services` (`store`, `filter`, `lightpush`, `sync`), or relay peers at
    all if neither is named. `known` peers are in the store, `due` of them may be dialled now; `addresses` are
    announced to others.
    """

    online: bool
    short: bool
    known: Uint
    due: Uint = 0
    enr: str
    addresses: tuple[str, ...] = ()
    discv5: Discv5Record = Discv5Record()
    lists: tuple[ListRecord, ...] = ()
    peer_exchange: bool = False
    short_shards: tuple[Uint, ...] = ()
    short_services: tuple[str, ...] = ()


class DiscoveryRunning(Body):
    """Reply of `discovery.start` and `discovery.stop`: `changed` is False if it was in that state before."""

    running: bool
    changed: bool


class BootnodesRequest(Body):
    """Bootstrap discv5 from these nodes, replacing those set before; with `add`, in addition to them."""

    enrs: Annotated[tuple[_Enr, ...], Size(MAX_BOOTNODES)]
    add: bool = False


class BootnodesReply(Body):
    boot_nodes: Uint


class ListRequest(Body):
    """Read a signed list once. `name_server`: `<IP>[:<port>]`, None: as configured. `use`: add the nodes."""

    url: _Url
    name_server: Annotated[str, Size(64, 1)] | None = None
    use: bool = True


class ListReply(Body):
    """`enrs` as text. `complete` is False if part of the list was skipped, for the reasons in `errors`."""

    seq: Uint
    enrs: Annotated[tuple[str, ...], Size(MAX_LISTED)]
    complete: bool
    errors: tuple[str, ...] = ()


class FindNodeRequest(Body):
    """Ask a node by discv5 for the nodes that it knows at these distances from itself (0: its own record).

    Without distances its record is only decoded.
    """

    enr: _Enr
    distances: Annotated[tuple[Annotated[int, Range(0, MAX_DISTANCE)], ...], Size(MAX_DISTANCES)] = ()


class EnrRecord(Body):
    """A verified node record (EIP-778), decoded. `capabilities` is None if it has no `waku2` entry, `cluster`
    if it has no shards; `addresses` are multiaddrs of the libp2p node."""

    enr: str
    seq: Uint
    peer_id: str
    addresses: tuple[str, ...] = ()
    capabilities: tuple[str, ...] | None = None
    cluster: Uint | None = None
    shards: tuple[Uint, ...] = ()


class FindNodeReply(Body):
    """`node`: the record in the request. `answered` is False without a response, for the reason in `why`, or
    if there was nothing to ask."""

    node: EnrRecord
    answered: bool
    why: str = ""
    nodes: tuple[EnrRecord, ...] = ()


class KnownPeersRequest(Body):
    """Request the best `limit` peers of the store."""

    limit: Annotated[int, Range(1, MAX_KNOWN)] = 100


class KnownRecord(Body):
    """A peer of the store.

    `last_success_ms`: since 1970, 0: never. `retry_ms`: until it may be dialled. `why`: the last failure as
    human-readable text; empty if there was none since the node started.
    """

    peer_id: str
    addresses: tuple[str, ...] = ()
    origin: str = ""
    connected: bool = False
    protocols: tuple[str, ...] = ()
    cluster: Uint | None = None
    shards: tuple[Uint, ...] = ()
    last_success_ms: Uint = 0
    failures: Uint = 0
    retry_ms: Uint = 0
    enr: str = ""
    why: str = ""


class KnownPeersReply(Body):
    """`total`: the number of peers in the store."""

    total: Uint
    peers: Annotated[tuple[KnownRecord, ...], Size(MAX_KNOWN)]


METHODS: Final[dict[str, Method]] = {
    PEERS_KNOWN: Method(KnownPeersRequest, KnownPeersReply),
    DISCOVERY_STATUS: Method(Empty, DiscoveryStatus),
    DISCOVERY_START: Method(Empty, DiscoveryRunning),
    DISCOVERY_STOP: Method(Empty, DiscoveryRunning),
    DISCOVERY_BOOTNODES: Method(BootnodesRequest, BootnodesReply),
    DISCOVERY_LIST: Method(ListRequest, ListReply),
    DISCOVERY_FIND_NODE: Method(FindNodeRequest, FindNodeReply),
}
