"""Look at one node from outside: dial it, ask each of its services something harmless, and report."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ipc_schema.config.addresses import parse_multiaddr
from ipc_schema.config.presets import find_preset
from ipc_schema.errors import ErrorCode
from ipc_schema.kernel.discovery import KnownRecord
from ipc_schema.kernel.records import PeerRecord
from ipc_schema.topics import MAX_SHARD_COUNT, shard_topic
from logos_client.exceptions import DeadlineError, LogosError, NoPeersError
from logos_client.kernel import KernelClient
from logos_deploy.node.probe_kernel import probe_kernel
from logos_deploy.text import count

PROTOCOLS: Final[Mapping[str, tuple[str, ...]]] = {
    "relay": ("/vac/waku/relay/",),
    "store": ("/vac/waku/store-query/3",),
    "filter": ("/vac/waku/filter-subscribe/2",),
    "lightpush": ("/vac/waku/lightpush/3", "/vac/waku/lightpush/2"),
    "peer-exchange": ("/vac/waku/peer-exchange/2",),
    "metadata": ("/vac/waku/metadata/1",),
}
"""Beginnings of the protocol ids by which a peer offers a service (identify)."""
SERVICES: Final = tuple(PROTOCOLS)
_CONTENT_TOPIC: Final = "/logos-check/1/probe/plain"
_OTHER_CLUSTER: Final = re.compile(r"peer is in cluster ([0-9]+)")
"""The kernel's reason to leave a peer of another network: it keeps nothing else of it."""
_POLL: Final = 0.1
_METADATA_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ServiceAnswer:
    """The outcome for one service. `answers` is None if it can only be seen that it is offered."""

    offered: bool
    answers: bool | None = None
    ms: float | None = None
    detail: str = ""

    @property
    def good(self) -> bool:
        """It is offered, and does not fail to answer."""
        return self.offered and self.answers is not False


@dataclass(slots=True)
class NodeReport:
    """What a look at one node found. Times in milliseconds; `error`: why the node could not be reached."""

    address: str
    reached: bool = False
    error: str = ""
    peer_id: str = ""
    transport: str = ""
    connect_ms: float | None = None
    """TCP connection alone: one round trip."""
    dial_ms: float | None = None
    """Connection, encryption, multiplexer and identify."""
    agent: str = ""
    protocols: tuple[str, ...] = ()
    cluster: int | None = None
    shards: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()
    services: dict[str, ServiceAnswer] = field(default_factory=dict)

    def failing(self, required: tuple[str, ...]) -> list[str]:
        """Return the services that are required and missing, or offered and silent."""
        return [
            name for name, one in self.services.items() if not one.good and (one.offered or name in required)
        ]


async def look_at(address: str, *, preset: str, cluster: int | None, timeout: float) -> NodeReport:
    """Dial a node and ask it. Without `preset` and `cluster` it is asked about its cluster first."""
    found = find_preset(preset)
    assumed = cluster if cluster is not None else (found.cluster if found else 0)
    report = await _look(address, assumed, timeout)
    # A kernel of another cluster is disconnected, ours or theirs first: look again as one of its own.
    if report.cluster not in (None, assumed) and cluster is None and found is None:
        report = await _look(address, int(report.cluster or 0), timeout)
    return report


async def _look(address: str, cluster: int, timeout: float) -> NodeReport:
    parsed = parse_multiaddr(address)
    report = NodeReport(address, transport=parsed.transport.removeprefix("/") or "tcp")
    report.connect_ms = await _tcp_round_trip(parsed.host, parsed.port, timeout)
    options = (f"--cluster-id={cluster}", "--num-shards-in-network=0", "--discv5-discovery=false")
    async with probe_kernel((*options, "--peer-exchange-discovery=false")) as client:
        started = time.monotonic()
        try:
            (result,) = await client.connect_peers(address, timeout=timeout)
            error = result.error
        except DeadlineError:
            result, error = None, f"no answer within {timeout:g} s"
        if error is not None or result is None or result.peer_id is None:
            report.error = error or "no peer id"
            return report
        report.dial_ms = _ms_since(started)
        report.reached, report.peer_id = True, result.peer_id
        peer = await _described(client, report)
        if peer is not None:
            await _ask_services(client, report, peer, cluster, timeout)
    return report


async def _tcp_round_trip(host: str, port: int, timeout: float) -> float | None:
    started = time.monotonic()
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    except (OSError, TimeoutError):
        return None  # the dial says why
    taken = _ms_since(started)
    writer.close()
    return taken


class Identified(NamedTuple):
    """What identify and metadata said of `peer`, as it was last seen. `error`: why it is not connected."""

    peer: PeerRecord | None
    error: str = ""


async def identified(client: KernelClient, peer_id: str) -> Identified:
    """Wait until a peer that was dialled has said what it is, or has disconnected."""
    end = time.monotonic() + _METADATA_SECONDS
    seen: PeerRecord | None = None
    while True:
        peer = next((one for one in await client.peers() if one.peer_id == peer_id), None)
        seen = peer or seen
        if peer is None and (known := await _known(client, peer_id)) is not None and known.why:
            return Identified(seen, known.why)
        if (peer is not None and peer.cluster is not None and peer.protocols) or time.monotonic() > end:
            return Identified(seen, "" if peer is not None else "it disconnected at once")
        await asyncio.sleep(_POLL)


async def _known(client: KernelClient, peer_id: str) -> KnownRecord | None:
    return next((one for one in (await client.known_peers(500)).peers if one.peer_id == peer_id), None)


async def _described(client: KernelClient, report: NodeReport) -> PeerRecord | None:
    """Fill in what identify and metadata say. Return the peer's record while it is connected."""
    peer, report.error = await identified(client, report.peer_id)
    if peer is not None:
        report.agent, report.protocols = peer.agent, peer.protocols
        report.cluster, report.shards = peer.cluster, peer.shards
    known = await _known(client, report.peer_id)
    if known is not None:
        report.addresses = known.addresses
        report.protocols = report.protocols or known.protocols
        if report.cluster is None:
            report.cluster, report.shards = known.cluster, known.shards
    if (other := _OTHER_CLUSTER.search(report.error)) is not None:
        report.cluster = int(other[1])
    return None if report.error else peer


async def _ask_services(
    client: KernelClient, report: NodeReport, peer: PeerRecord, cluster: int, timeout: float
) -> None:
    """Ask each service that it offers, one after the other: the times are not each other's."""
    offered = {
        name: any(one.startswith(begin) for one in peer.protocols for begin in begins)
        for name, begins in PROTOCOLS.items()
    }
    # No shard of its own: a lightpush to it is refused, which is an answer, and troubles no network.
    strange = next(n for n in range(MAX_SHARD_COUNT - 1, -1, -1) if n not in peer.shards)
    who = peer.peer_id
    asked: dict[str, Awaitable[str]] = {}
    if offered["store"]:
        asked["store"] = _store(client, who, timeout)
    if offered["filter"]:
        asked["filter"] = _filter(client, who, timeout)
    if offered["lightpush"]:
        asked["lightpush"] = _lightpush(client, who, shard_topic(cluster, strange), timeout)
    if offered["peer-exchange"]:
        asked["peer-exchange"] = _peer_exchange(client, who, timeout)
    for name, is_offered in offered.items():
        if name in asked:
            report.services[name] = await _answer(asked[name])
        else:
            answers = report.cluster is not None if name == "metadata" and is_offered else None
            report.services[name] = ServiceAnswer(is_offered, answers)


async def _answer(asking: Awaitable[str]) -> ServiceAnswer:
    started = time.monotonic()
    try:
        detail = await asking
    except NoPeersError as error:
        status = _status_in(error)
        if status is None:
            return ServiceAnswer(True, False, detail=error.message)
        return ServiceAnswer(True, True, _ms_since(started), f"refused with {status}")
    except LogosError as error:
        if (status := _status_in(error)) is not None:
            return ServiceAnswer(True, True, _ms_since(started), f"refused with {status}")
        return ServiceAnswer(True, False, detail=error.message)
    return ServiceAnswer(True, True, _ms_since(started), detail)


def _status_in(error: LogosError) -> int | None:
    """Return the status with which the peer itself refused."""
    detail = error.detail if isinstance(error.detail, dict) else {}
    attempts = detail.get("attempts")
    for attempt in attempts if isinstance(attempts, list | tuple) else (detail,):
        if isinstance(attempt, dict) and isinstance(attempt.get("status"), int):
            return int(attempt["status"])
    return None


async def _store(client: KernelClient, peer: str, timeout: float) -> str:
    page = await client.store_query(limit=1, forward=False, peer=peer, timeout=timeout)
    return "it has messages" if page.hashes else "it has no messages"


async def _filter(client: KernelClient, peer: str, timeout: float) -> str:
    reply = await client.filter_ping(peer, timeout=timeout)
    (found,) = reply.peers
    if found.status is None:
        raise DeadlineError(ErrorCode.DEADLINE_EXCEEDED, found.error or "no answer")
    return f"ping answered with {found.status}"


async def _lightpush(client: KernelClient, peer: str, topic: str, timeout: float) -> str:
    reply = await client.lightpush_publish(
        _CONTENT_TOPIC, b"logos check", pubsub_topic=topic, ephemeral=True, peer=peer, timeout=timeout
    )
    return f"passed on to {reply.relay_peers}"


async def _peer_exchange(client: KernelClient, peer: str, timeout: float) -> str:
    reply = await client.peer_exchange(5, peer=peer, timeout=timeout)
    return count(len(reply.enrs), "record")


def _ms_since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
