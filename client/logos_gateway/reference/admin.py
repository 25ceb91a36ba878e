"""`/admin/v1`: peers, mesh, statistics, filter subscribers, log level. Needs `rest-admin`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ipc_schema.config.addresses import UndialableError, can_dial, check_multiaddr, peer_id_in
from ipc_schema.config.kinds import LOG_LEVELS
from ipc_schema.kernel.discovery import KnownRecord
from ipc_schema.kernel.records import NodeHealth, PeerRecord
from ipc_schema.topics import PubsubTopic, TopicError, shard_topic
from logos_client.control import ControlClient
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_gateway.bodies import TextRefusal, json_response, reference_body
from logos_gateway.json_values import BadBody, decode_json
from logos_gateway.state import gateway_of, kernel_for
from logos_process.logs import fields

log = logging.getLogger(__name__)

router = APIRouter(prefix="/admin/v1", tags=["admin"])

SERVICE_PROTOCOLS: Final = (
    "/vac/waku/relay/2.0.0",
    "/vac/waku/filter-subscribe/2.0.0-beta1",
    "/vac/waku/store-query/3.0.0",
    "/vac/waku/lightpush/2.0.0-beta1",
    "/vac/waku/lightpush/3.0.0",
    "/vac/waku/peer-exchange/2.0.0-alpha1",
    "/vac/waku/reconciliation/1.0.0",
    "/vac/waku/transfer/1.0.0",
)
"""Protocols that `/admin/v1/peers/service` lists, one entry per peer and protocol."""

_ORIGINS: Final = {
    "static": "Static",
    "discv5": "Discv5",
    "dns": "Dns",
    "peer-exchange": "PeerExchange",
    "prune": "PeerExchange",
    "cache": "Cache",
}


def _kernel(request: Request) -> KernelClient:
    if not gateway_of(request).config.options.rest_admin:
        raise TextRefusal(
            404, "/admin endpoints are not available. Please check your configuration: --rest-admin=true"
        )
    return kernel_for(request, "/admin")


# --- shapes -----------------------------------------------------------------------------------------------


def _waku_peer(
    peer: PeerRecord | KnownRecord, address: str, connected: str, agent: str = ""
) -> dict[str, Any]:
    if address and "/p2p/" not in address:
        address = f"{address}/p2p/{peer.peer_id}"
    return {
        "multiaddr": address,
        "protocols": list(peer.protocols),
        "shards": list(peer.shards),
        "connected": connected,
        "agent": agent,
        "origin": _ORIGINS.get(peer.origin, "UnknownOrigin"),
    }


def show_peer(peer: PeerRecord) -> dict[str, Any]:
    """Return a connected peer as the reference's WakuPeer."""
    shown = _waku_peer(peer, peer.address, "Connected", peer.agent)
    return shown if peer.score is None else {**shown, "score": peer.score}


def show_known(peer: KnownRecord) -> dict[str, Any]:
    """Return an unconnected peer of the peer store as a WakuPeer."""
    connected = "CannotConnect" if peer.failures else "CanConnect" if peer.last_success_ms else "NotConnected"
    return _waku_peer(peer, peer.addresses[0] if peer.addresses else "", connected)


async def _all_peers(kernel: KernelClient) -> dict[str, dict[str, Any]]:
    """Return peer id → WakuPeer: the connected ones first, then those only known."""
    connected = {peer.peer_id: show_peer(peer) for peer in await kernel.peers()}
    known = (await kernel.known_peers(500)).peers
    return connected | {peer.peer_id: show_known(peer) for peer in known if peer.peer_id not in connected}


# --- peers ------------------------------------------------------------------------------------------------


@router.get("/peers", summary="All known peers")
async def peers(request: Request) -> Response:
    """Return every peer of the peer store, connected or not."""
    return json_response(list((await _all_peers(_kernel(request))).values()))


@router.post("/peers", summary="Connect to peers")
async def connect(request: Request) -> Response:
    """Body: an array of multiaddrs, dialled in order. 400 at the first that fails. An address whose transport
    is not spoken here is skipped if there is another one of its peer."""
    kernel = _kernel(request)
    body = await reference_body(request)
    try:
        addresses = decode_json(body)
        if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
            raise BadBody("expected an array of multiaddrs")
    except BadBody as error:
        raise TextRefusal(400, f"Failed to decode request: {error}") from None
    for index, address in enumerate(addresses):
        try:
            check_multiaddr(address)
            if peer_id_in(address) is None:
                raise ValueError("the peer id is missing")
        except ValueError as error:
            if isinstance(error, UndialableError) and _has_another(addresses, address):
                log.info("address skipped", extra=fields(address=address, reason=str(error)))
                continue
            raise TextRefusal(400, f"Couldn't parse remote peer info: {error}") from None
        try:
            (result,) = await kernel.connect_peers(address)
        except LogosError:
            raise TextRefusal(400, f"Failed to connect to peer at index: {index} - {address}") from None
        if result.error is not None:
            raise TextRefusal(400, f"Failed to connect to peer at index: {index} - {address}")
    return PlainTextResponse("OK")


def _has_another(addresses: Sequence[str], skipped: str) -> bool:
    own = peer_id_in(skipped)
    return own is not None and any(peer_id_in(one) == own and can_dial(one) for one in addresses)


@router.get("/peer/{peerId}", summary="One peer")
async def peer(request: Request) -> Response:
    """Return a WakuPeer; 404 if it is unknown."""
    kernel = _kernel(request)
    peer_id = request.path_params["peerId"]
    if not peer_id.isalnum() or not 40 <= len(peer_id) <= 64:
        raise TextRefusal(400, f"Invalid argument:peerId: {peer_id} is not a peer id")
    found = (await _all_peers(kernel)).get(peer_id)
    if found is None:
        raise TextRefusal(404, f"Peer with ID {peer_id} not found")
    return json_response(found)


@router.get("/peers/service", summary="Peers by service protocol")
async def service_peers(request: Request) -> Response:
    """Return one entry per peer and service protocol."""
    found = (await _all_peers(_kernel(request))).values()
    return json_response(
        [
            {**shown, "protocols": [protocol]}
            for protocol in SERVICE_PROTOCOLS
            for shown in found
            if protocol in shown["protocols"]
        ]
    )


@router.get("/peers/connected", summary="Connected peers")
async def connected_peers(request: Request) -> Response:
    return json_response([show_peer(one) for one in await _kernel(request).peers()])


@router.get("/peers/connected/on/{shardId}", summary="Connected peers on a shard")
async def connected_on(request: Request) -> Response:
    """Return the connected peers on a shard."""
    kernel = _kernel(request)
    shard = _shard(request)
    return json_response([show_peer(one) for one in await kernel.peers() if shard in one.shards])


def _shard(request: Request) -> int:
    text = request.path_params["shardId"]
    if not text.isascii() or not text.isdigit() or int(text[:8]) > 0xFFFF:
        raise TextRefusal(400, f"Invalid shardId: {text}")
    return int(text)


@router.get("/peers/relay", summary="Relay peers by shard")
async def relay_peers(request: Request) -> Response:
    """`[{shard, peers}]` for each subscribed shard."""
    return await _of_all_shards(request, mesh=False)


@router.get("/peers/mesh", summary="Mesh peers by shard")
async def mesh_peers(request: Request) -> Response:
    """`[{shard, peers}]` for each subscribed shard."""
    return await _of_all_shards(request, mesh=True)


@router.get("/peers/relay/on/{shardId}", summary="Relay peers of one shard")
async def relay_peers_on(request: Request) -> Response:
    """`{shard, peers}`."""
    return await _of_one_shard(request, mesh=False)


@router.get("/peers/mesh/on/{shardId}", summary="Mesh peers of one shard")
async def mesh_peers_on(request: Request) -> Response:
    """`{shard, peers}`."""
    return await _of_one_shard(request, mesh=True)


async def _relaying(kernel: KernelClient) -> NodeHealth:
    health = await kernel.health()
    if any(one.name == "Relay" and one.state == "NOT_MOUNTED" for one in health.protocols):
        raise TextRefusal(503, "Error: Relay Protocol is not mounted to the node")
    return health


async def _of_all_shards(request: Request, *, mesh: bool) -> Response:
    kernel = _kernel(request)
    shards = [(one.shard, one.pubsub_topic) for one in (await _relaying(kernel)).shards]
    return json_response(await _by_shard(kernel, shards, mesh=mesh))


async def _of_one_shard(request: Request, *, mesh: bool) -> Response:
    kernel = _kernel(request)
    await _relaying(kernel)
    shard = _shard(request)
    topic = shard_topic(kernel.network.cluster, shard)
    return json_response((await _by_shard(kernel, [(shard, topic)], mesh=mesh))[0])


async def _by_shard(
    kernel: KernelClient, shards: Iterable[tuple[int, str]], *, mesh: bool
) -> list[dict[str, Any]]:
    """Return `{shard, peers}` for each shard and its pubsub topic."""
    peers = {one.peer_id: show_peer(one) for one in await kernel.peers()}
    topics = await (kernel.mesh() if mesh else kernel.relay_peers())
    return [
        {"shard": shard, "peers": [peers[one] for one in topics.get(topic, ()) if one in peers]}
        for shard, topic in shards
    ]


# --- statistics -------------------------------------------------------------------------------------------


def peer_statistics(
    peers: Sequence[dict[str, Any]],
    relay: dict[str, tuple[str, ...]],
    mesh: dict[str, tuple[str, ...]],
) -> dict[str, Any]:
    """Return the reference's counters of peers. `relay` and `mesh` map pubsub topics to peer ids."""
    states = Counter(one["connected"] for one in peers)
    protocols = Counter(protocol for one in peers for protocol in one["protocols"])
    return {
        "Sum": {"Total peers": len(peers)},
        "By Connectedness": {
            name: states[name] for name in ("Connected", "NotConnected", "CannotConnect", "CanConnect")
        },
        "Relay peers": _per_shard(relay, "Total relay peers"),
        "Mesh peers": _per_shard(mesh, "Total mesh peers"),
        "By Protocols": dict(sorted(protocols.items())),
    }


def _per_shard(topics: dict[str, tuple[str, ...]], total: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for topic, ids in topics.items():
        try:
            counts[str(PubsubTopic.parse(topic).shard)] = len(ids)
        except TopicError:
            continue  # a topic of a peer's own making, which has no shard to count it under
    counts[total] = len({one for ids in topics.values() for one in ids})
    return counts


@router.get("/peers/stats", summary="Statistics of peers")
async def stats(request: Request) -> Response:
    """Return counters by connectedness, shard and protocol."""
    kernel = _kernel(request)
    found = list((await _all_peers(kernel)).values())
    return json_response(peer_statistics(found, await kernel.relay_peers(), await kernel.mesh()))


# --- the node ---------------------------------------------------------------------------------------------


@router.get("/filter/subscriptions", summary="Clients of our filter service")
async def filter_subscriptions(request: Request) -> Response:
    """Return `[{peerId, filterCriteria: [{pubsubTopic, contentTopic}]}]`."""
    kernel = _kernel(request)
    if not await gateway_of(request).links.mounts("Filter"):
        raise TextRefusal(400, "Error: Filter Protocol is not mounted to the node")
    return json_response(
        [
            {
                "peerId": one.peer,
                "filterCriteria": [
                    {"pubsubTopic": topic, "contentTopic": content} for topic, content in one.criteria
                ],
            }
            for one in await kernel.filter_subscribers()
        ]
    )


@router.post("/log-level/{level}", summary="Set the log level of all processes of the node")
@router.post("/log-level", include_in_schema=False)
@router.post("/log-level/", include_in_schema=False)
async def log_level(request: Request) -> Response:
    """200 `OK`; the level in any case."""
    _kernel(request)
    level = request.path_params.get("level", "")
    if not level:
        raise TextRefusal(400, "Invalid log-level, it can’t be empty")
    if level.upper() not in LOG_LEVELS:
        raise TextRefusal(
            400,
            f"Invalid log-level: {level}. "
            "Please specify one of TRACE, DEBUG, INFO, NOTICE, WARN, ERROR or FATAL",
        )
    links = gateway_of(request).links
    endpoints = [links.kernel_endpoints.control]
    if links.mapi_endpoints is not None:
        endpoints.append(links.mapi_endpoints.control)
    for endpoint in endpoints:
        async with ControlClient.connect(endpoint) as control:
            await control.set_log_level(level.upper())
    return PlainTextResponse("OK")
