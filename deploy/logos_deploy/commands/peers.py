"""`logos peers`: who a node is connected to, whom else it knows, and how it finds them."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ipc_schema.kernel.discovery import DiscoveryStatus, KnownPeersReply, KnownRecord
from ipc_schema.kernel.records import PeerRecord
from logos_client.kernel import KernelClient
from logos_deploy.commands.where import add_where, where
from logos_deploy.exits import Exit
from logos_deploy.text import count, duration, one_line, table

NAME: Final = "peers"
HELP: Final = "show a node's peers: connected ones, known ones, and how they are found"

_SERVICES: Final = (
    ("/vac/waku/relay/", "relay"),
    ("/vac/waku/store-query/", "store"),
    ("/vac/waku/filter-subscribe/", "filter"),
    ("/vac/waku/lightpush/", "lightpush"),
    ("/vac/waku/peer-exchange/", "px"),
)
_KNOWN: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """What the kernel says. `known` only if it was asked for."""

    connected: Sequence[PeerRecord]
    discovery: DiscoveryStatus
    known: KnownPeersReply | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `peers`."""
    parser.add_argument("--all", action="store_true", help="also those that are not connected")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="(default: 5)")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask and show. Exit code 0, 69 if no kernel answers."""
    place = where(arguments)
    peers = asyncio.run(_ask(place.kernel, arguments.timeout, known=arguments.all))
    if arguments.json:
        print(json.dumps(as_json(peers), indent=2))
    else:
        print("\n".join(as_text(peers, time.time())))
    return Exit.OK


async def _ask(endpoints: Any, timeout: float, *, known: bool) -> Peers:
    async with KernelClient.connect(endpoints, timeout=timeout) as client:
        return Peers(
            connected=await client.peers(),
            discovery=await client.discovery(),
            known=await client.known_peers(_KNOWN) if known else None,
        )


def as_json(peers: Peers) -> dict[str, Any]:
    """`{connected, discovery, known}`; `known` is null unless asked for."""
    return {
        "connected": [peer.to_body() for peer in peers.connected],
        "discovery": peers.discovery.to_body(),
        "known": None if peers.known is None else [peer.to_body() for peer in peers.known.peers],
    }


def as_text(peers: Peers, now: float) -> Iterator[str]:
    """Lines for a terminal. `now`: seconds since 1970."""
    yield from _summary(peers)
    if peers.connected:
        yield ""
        rows = sorted(peers.connected, key=lambda peer: (not peer.mesh, -(peer.score or 0.0), peer.peer_id))
        yield table(
            map(_connected, rows),
            heads=("peer", "address", "way", "for", "found by", "serves", "shards", "mesh", "score"),
            right=(8,),
        )
    if peers.known is not None:
        others = [peer for peer in peers.known.peers if not peer.connected]
        yield ""
        if not others:
            yield "no other peers are known"
            return
        yield table(
            (_known(peer, now) for peer in others),
            heads=(
                "known peer",
                "address",
                "found by",
                "serves",
                "shards",
                "last connected",
                "failed",
                "next dial",
            ),
            right=(6,),
        )


def _summary(peers: Peers) -> Iterator[str]:
    discovery = peers.discovery
    state = "online" if discovery.online else "offline"
    needs = ", looking for more" if discovery.short else ""
    yield f"{count(len(peers.connected), 'peer')} connected, {discovery.known} known, {state}{needs}"
    if discovery.discv5.running:
        discv5 = discovery.discv5
        yield (
            f"discv5 on UDP port {discv5.port}: {count(discv5.nodes, 'node')}, {discv5.verified} verified, "
            f"{count(discv5.boot_nodes, 'boot node')}"
        )
    for one in discovery.lists:
        problem = f" ({one_line(one.error)})" if one.error else ""
        yield f"list {one_line(one.url.partition('@')[2])}: {count(one.records, 'node')}{problem}"
    if discovery.peer_exchange:
        yield "peer exchange asks peers for peers"


def _connected(peer: PeerRecord) -> Sequence[object]:
    return (
        peer.peer_id[-12:],
        one_line(peer.address),
        "in" if peer.direction == "inbound" else "out",
        duration(peer.connected_ms / 1000),
        one_line(peer.origin),
        _services(peer.protocols),
        _shards(peer.shards),
        len(peer.mesh) or "",
        "" if peer.score is None else f"{peer.score:.1f}",
    )


def _known(peer: KnownRecord, now: float) -> Sequence[object]:
    last = peer.last_success_ms / 1000
    return (
        peer.peer_id[-12:],
        one_line(peer.addresses[0].partition("/p2p/")[0]) if peer.addresses else "",
        one_line(peer.origin),
        _services(peer.protocols),
        _shards(peer.shards),
        f"{duration(max(0.0, now - last))} ago" if last else "never",
        peer.failures or "",
        f"in {duration(peer.retry_ms / 1000)}" if peer.retry_ms else "any time",
    )


def _services(protocols: Sequence[str]) -> str:
    found = [name for mark, name in _SERVICES if any(mark in protocol for protocol in protocols)]
    return " ".join(found)


def _shards(shards: Sequence[int]) -> str:
    shown = ",".join(map(str, shards[:8]))
    return shown + ",…" if len(shards) > 8 else shown
