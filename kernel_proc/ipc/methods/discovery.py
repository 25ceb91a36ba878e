"""discovery.status, discovery.start, discovery.stop, discovery.bootnodes, discovery.list, peers.known."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping

import trio

from ipc_schema.config.discovery import NAME_SERVER
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import INT64_MAX
from ipc_schema.kernel.discovery import (
    DISCOVERY_BOOTNODES,
    DISCOVERY_FIND_NODE,
    DISCOVERY_LIST,
    DISCOVERY_START,
    DISCOVERY_STATUS,
    DISCOVERY_STOP,
    MAX_LISTED,
    PEERS_KNOWN,
    BootnodesReply,
    BootnodesRequest,
    DiscoveryRunning,
    DiscoveryStatus,
    Discv5Record,
    EnrRecord,
    FindNodeReply,
    FindNodeRequest,
    KnownPeersReply,
    KnownPeersRequest,
    KnownRecord,
    ListRecord,
    ListReply,
    ListRequest,
)
from ipc_schema.server import Answer, Call, Route
from kernel_proc.discovery.discv5.dialogue import TooManyRequestsError
from kernel_proc.discovery.discv5.service import Discv5Error
from kernel_proc.discovery.dns_client import TreeClient, TreeLimits
from kernel_proc.discovery.dns_resolver import DnsFailure, DnsTxtResolver
from kernel_proc.discovery.dns_tree import TreeError, parse_url
from kernel_proc.discovery.enr import Enr, EnrError, record_text
from kernel_proc.discovery.enr_values import Capability
from kernel_proc.ipc.methods.fitting import fitting
from kernel_proc.p2p.api import Host
from kernel_proc.peering.service import Peering
from kernel_proc.peers.known import KnownPeer, PeerOrigin


def discovery_routes(peering: Peering, host: Host) -> Mapping[str, Route]:
    """Return the methods about discovery and known peers."""

    def status(_call: Call) -> Answer:
        return _status(peering).to_body(), ()

    async def start(_call: Call) -> Answer:
        try:
            changed = await peering.start_discv5()
        except OSError as error:
            raise IpcError(ErrorCode.NOT_READY, f"discv5 cannot listen: {error}") from error
        return DiscoveryRunning(running=peering.discv5.running, changed=changed).to_body(), ()

    async def stop(_call: Call) -> Answer:
        changed = await peering.stop_discv5()
        return DiscoveryRunning(running=peering.discv5.running, changed=changed).to_body(), ()

    def bootnodes(call: Call) -> Answer:
        request = call.read(BootnodesRequest)
        records = [_read_record(text) for text in request.enrs]
        peering.set_boot_nodes(records, add=request.add)
        return BootnodesReply(boot_nodes=len(peering.boot_nodes)).to_body(), ()

    async def listing(call: Call) -> Answer:
        request = call.read(ListRequest)
        seconds = max(0.1, call.answer_by - trio.current_time())
        try:
            url = parse_url(request.url)
            given = request.name_server
            servers = peering.name_servers if given is None else (NAME_SERVER.parse(given),)
        except ValueError as error:  # including TreeError
            raise IpcError(ErrorCode.BAD_REQUEST, str(error)) from error
        try:
            client = TreeClient(DnsTxtResolver(servers), TreeLimits(records=MAX_LISTED, seconds=seconds))
            with trio.fail_after(seconds):
                reading = await client.read(url)
        except trio.TooSlowError:
            raise IpcError(ErrorCode.DEADLINE_EXCEEDED, f"no response within {seconds:.1f} s") from None
        except (DnsFailure, TreeError) as error:
            raise IpcError(ErrorCode.NO_PEERS, str(error)) from error
        if request.use:
            peering.sources.learn_records(reading.records, PeerOrigin.DNS)
        reply = ListReply(
            seq=reading.seq,
            enrs=tuple(record.text for record in reading.records[:MAX_LISTED]),
            complete=reading.complete,
            errors=tuple(reading.errors),
        )
        return reply.to_body(), ()

    async def find_node(call: Call) -> Answer:
        request = call.read(FindNodeRequest)
        record = _read_record(request.enr)
        nodes: list[Enr] | None = None
        why = ""
        if request.distances:
            if not peering.discv5.running:
                raise IpcError(ErrorCode.NOT_READY, "discv5 does not run")
            try:
                nodes = await peering.discv5.find_node(record, request.distances)
            except TooManyRequestsError:
                raise IpcError(ErrorCode.RATE_LIMITED, "too many discv5 requests in progress") from None
            except (Discv5Error, ValueError) as error:
                why = str(error)
        reply = FindNodeReply(
            node=_enr(record), answered=nodes is not None, why=why, nodes=tuple(map(_enr, nodes or ()))
        )
        return reply.to_body(), ()

    def known(call: Call) -> Answer:
        request = call.read(KnownPeersRequest)
        now = peering.manager.now()
        store = peering.store
        best = heapq.nlargest(request.limit, store, key=lambda peer: store.value(peer, now))
        rows = tuple(_row(peer, now, connected=host.is_connected(peer.peer_id)) for peer in best)
        return KnownPeersReply(total=len(store), peers=fitting(rows)).to_body(), ()

    return {
        DISCOVERY_STATUS: Route(status),
        DISCOVERY_START: Route(start),
        DISCOVERY_STOP: Route(stop),
        DISCOVERY_BOOTNODES: Route(bootnodes),
        DISCOVERY_LIST: Route(listing),
        DISCOVERY_FIND_NODE: Route(find_node),
        PEERS_KNOWN: Route(known),
    }


def _read_record(text: str) -> Enr:
    """Return the record. Raise `IpcError` that names the text, of which there may be many."""
    try:
        return Enr.from_text(text)
    except EnrError as error:
        raise IpcError(ErrorCode.BAD_REQUEST, f"{text[:60]!r} is not a node record: {error}") from error


def _status(peering: Peering) -> DiscoveryStatus:
    discv5, now = peering.discv5, peering.manager.now()
    nodes = discv5.nodes()
    seen = discv5.observed()
    return DiscoveryStatus(
        online=peering.manager.online,
        short=peering.manager.short,
        known=len(peering.store),
        due=sum(peer.is_due(now) for peer in peering.store),
        enr=peering.own.enr.record.text,
        addresses=peering.own.addresses.announced(),
        discv5=Discv5Record(
            running=discv5.running,
            port=discv5.bound[0].port if discv5.bound else 0,
            nodes=len(nodes),
            verified=sum(node.verified for node in nodes),
            boot_nodes=len(peering.boot_nodes),
            observed=f"{seen.host}:{seen.port}" if seen is not None else "",
        ),
        lists=tuple(
            ListRecord(
                url=str(one.url),
                seq=one.seq,
                records=one.records,
                read_ms=int(one.read_at * 1000),
                error=one.error[:1000],
            )
            for one in peering.dns.lists
        ),
        peer_exchange=peering.asks_for_peers,
        short_shards=tuple(sorted(peering.manager.short_shards)),
        short_services=tuple(sorted(peering.manager.short_services)),
    )


def _enr(record: Enr) -> EnrRecord:
    named, shards = record.capabilities, record.shards
    return EnrRecord(
        enr=record.text,
        seq=min(record.seq, INT64_MAX),
        peer_id=record.peer_id,
        addresses=record.addresses,
        capabilities=None
        if named is None
        else tuple(str(one.name).lower() for one in Capability if one in named),
        cluster=None if shards is None else shards.cluster,
        shards=() if shards is None else tuple(sorted(shards.shards)),
    )


def _row(peer: KnownPeer, now: float, *, connected: bool) -> KnownRecord:
    return KnownRecord(
        peer_id=peer.peer_id,
        addresses=peer.addresses,
        origin=str(peer.origin),
        connected=connected,
        protocols=peer.protocols,
        cluster=peer.cluster,
        shards=peer.shards,
        # For people, hence on the current wall clock.
        last_success_ms=int((time.time() - now + peer.last_success) * 1000) if peer.last_success else 0,
        failures=peer.failures,
        retry_ms=max(0, int((peer.retry_at - now) * 1000)),
        enr=record_text(peer.enr) if peer.enr else "",
        why=peer.why,
    )
