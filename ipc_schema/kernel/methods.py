"""Requests and replies of the kernel's ROUTER (SPEC.md, "Streams" and "Other methods").

`METHODS` maps each method's name to its two types. Requests are read with `.from_body`, whose errors are the
`bad_request` to answer; blobs travel beside the body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from ipc_schema.body import AnyNumber, Bin8, Body, Empty, Method, Range, Size, Uint
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.hello import HELLO, HelloReply, HelloRequest, Limits
from ipc_schema.kernel import discovery, lightpush, peer_exchange, relay, store, store_admin
from ipc_schema.kernel import filter as filter_methods
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.kernel.values import Address, PeerId, Shard
from ipc_schema.node_info import NODE_INFO, NodeInfoReply, NodeInfoRequest
from ipc_schema.streams import MAX_REPLAY_EVENTS, ReplayBatch, StreamState

__all__ = [
    "LEASE_ACQUIRE",
    "LEASE_RELEASE",
    "LEASE_RENEW_MS",
    "LEASE_TTL_MS",
    "MAX_LEASED_SHARDS",
    "METHODS",
    "NODE_CONFIG",
    "NODE_HEALTH",
    "NODE_METRICS",
    "PEERS_CONNECT",
    "PEERS_DISCONNECT",
    "PEERS_LIST",
    "STREAM_REPLAY",
    "ConnectResult",
    "KernelHello",
    "KernelLimits",
    "LeaseAcquireReply",
    "LeaseAcquireRequest",
    "LeaseReleaseReply",
    "LeaseReleaseRequest",
    "NodeConfigReply",
    "NodeMetricsReply",
    "OptionRecord",
    "PeersConnectReply",
    "PeersConnectRequest",
    "PeersDisconnectReply",
    "PeersDisconnectRequest",
    "PeersListReply",
    "StreamReplayReply",
    "StreamReplayRequest",
    "replay_blobs",
    "replayed_events",
    "trimmed_first",
]

LEASE_ACQUIRE: Final = "lease.acquire"
LEASE_RELEASE: Final = "lease.release"
STREAM_REPLAY: Final = "stream.replay"
PEERS_CONNECT: Final = "peers.connect"
PEERS_DISCONNECT: Final = "peers.disconnect"
PEERS_LIST: Final = "peers.list"
NODE_HEALTH: Final = "node.health"
NODE_CONFIG: Final = "node.config"
NODE_METRICS: Final = "node.metrics"

LEASE_TTL_MS: Final = 60_000
LEASE_RENEW_MS: Final = 10_000
MAX_LEASED_SHARDS: Final = 1024
"""Most shards in one request: the most that a cluster can have."""

_Shards = Annotated[tuple[Shard, ...], Size(MAX_LEASED_SHARDS)]


# --- hello and streams ------------------------------------------------------------------------------------


class KernelLimits(Limits):
    """Limits of a kernel. `max_payload`: bytes that certainly fit in a message; None: not reported."""

    replay_bytes: Uint
    lease_ttl_ms: Uint = LEASE_TTL_MS
    lease_renew_ms: Uint = LEASE_RENEW_MS
    max_payload: Uint | None = None


class KernelHello(HelloReply):
    """Reply of the kernel's hello. `events`: endpoint of the XPUB; `streams`: what is recorded now."""

    limits: KernelLimits
    events: str
    consumer: str
    streams: tuple[StreamState, ...] = ()


class LeaseAcquireRequest(Body):
    """Acquire or renew leases on these shards, all or none."""

    shards: _Shards


class LeaseAcquireReply(Body):
    """One stream state per requested shard, in the same order."""

    leases: tuple[StreamState, ...]
    ttl_ms: Uint


class LeaseReleaseRequest(Body):
    shards: _Shards


class LeaseReleaseReply(Body):
    """The shards on which this consumer held a lease."""

    released: _Shards


class StreamReplayRequest(Body):
    """Request the events of a stream behind seq `after`."""

    stream: Annotated[str, Size(64, 1)]
    epoch: Bin8
    after: Uint


class StreamReplayReply(Body):
    """`events` events up to seq `last`, two blobs each; `complete`: there is no later one."""

    events: Annotated[int, Range(0, MAX_REPLAY_EVENTS)]
    last: Uint
    complete: bool


def replay_blobs(batch: ReplayBatch) -> tuple[StreamReplayReply, list[bytes]]:
    """Return body and blobs of a replay's reply."""
    reply = StreamReplayReply(events=len(batch.events), last=batch.last, complete=batch.complete)
    return reply, [frame for event in batch.events for frame in event]


def replayed_events(reply: StreamReplayReply, blobs: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return (F1, F2) of each replayed event. Raises `IpcError` (`bad_request`) if the blobs do not match."""
    if len(blobs) != 2 * reply.events:
        raise IpcError(
            ErrorCode.BAD_REQUEST,
            f"stream.replay reply: {reply.events} events need {2 * reply.events} blobs, not {len(blobs)}",
        )
    return list(zip(blobs[::2], blobs[1::2], strict=True))


def trimmed_first(error: IpcError, after: int) -> int | None:
    """Return the oldest event left if the error says that those behind `after` are gone, else None."""
    first = (error.detail or {}).get("first")
    return first if error.code is ErrorCode.TRIMMED and isinstance(first, int) and first > after + 1 else None


# --- peers ------------------------------------------------------------------------------------------------


class PeersConnectRequest(Body):
    addresses: Annotated[tuple[Address, ...], Size(64)]


class ConnectResult(Body):
    """Result for one address: a peer id or an error."""

    address: str
    peer_id: str | None = None
    error: str | None = None


class PeersConnectReply(Body):
    results: tuple[ConnectResult, ...]


class PeersDisconnectRequest(Body):
    peer_id: PeerId


class PeersDisconnectReply(Body):
    """False: the peer was not connected."""

    disconnected: bool


class PeersListReply(Body):
    """As many peers as fit in a reply; `total`: how many are connected."""

    peers: tuple[PeerRecord, ...]
    total: Uint = 0


# --- the node ---------------------------------------------------------------------------------------------


class OptionRecord(Body):
    """A configuration option; secrets have no value.

    `origin` is `default`, `preset`, `file`, `environment` or `flag`; `detail` is the file and line, the
    variable, the flag, the preset.
    """

    name: str
    type: str
    default: object = None
    value: object = None
    origin: str = ""
    doc: str = ""
    detail: str = ""


class NodeConfigReply(Body):
    options: tuple[OptionRecord, ...]


class NodeMetricsReply(Body):
    """(name, labels, value) of each sample."""

    metrics: tuple[tuple[str, dict[str, str], AnyNumber], ...]


METHODS: Final[dict[str, Method]] = {
    HELLO: Method(HelloRequest, KernelHello),
    LEASE_ACQUIRE: Method(LeaseAcquireRequest, LeaseAcquireReply),
    LEASE_RELEASE: Method(LeaseReleaseRequest, LeaseReleaseReply),
    STREAM_REPLAY: Method(StreamReplayRequest, StreamReplayReply),
    **relay.METHODS,
    **lightpush.METHODS,
    **store.METHODS,
    **store_admin.METHODS,
    **filter_methods.METHODS,
    **peer_exchange.METHODS,
    PEERS_CONNECT: Method(PeersConnectRequest, PeersConnectReply),
    PEERS_DISCONNECT: Method(PeersDisconnectRequest, PeersDisconnectReply),
    PEERS_LIST: Method(Empty, PeersListReply),
    **discovery.METHODS,
    NODE_HEALTH: Method(Empty, NodeHealth),
    NODE_INFO: Method(NodeInfoRequest, NodeInfoReply),
    NODE_CONFIG: Method(Empty, NodeConfigReply),
    NODE_METRICS: Method(Empty, NodeMetricsReply),
}
