"""`logos peers`: the connected peers of a node, and the known ones."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from ipc_schema.kernel.discovery import KnownRecord
from ipc_schema.kernel.records import PeerRecord
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import print_result
from logos_deploy.commands.where import add_query_options, where
from logos_deploy.exits import Exit
from logos_deploy.node.network_view import NetworkView, look, reason, wanted_peers
from logos_deploy.text import count, duration, one_line, table

HELP: Final = "show a node's connected and known peers, their origin and services"

_SERVICES: Final = (
    ("/vac/waku/relay/", "relay"),
    ("/vac/waku/store-query/", "store"),
    ("/vac/waku/filter-subscribe/", "filter"),
    ("/vac/waku/lightpush/", "lightpush"),
    ("/vac/waku/peer-exchange/", "px"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all", action="store_true", help="also peers that are not connected, with the reason"
    )
    parser.add_argument("--long", action="store_true", help="full peer ids, and agent strings")
    add_query_options(parser)


def run(arguments: argparse.Namespace) -> int:
    view = asyncio.run(ask(arguments))
    print_result(
        arguments,
        as_json(view, known=arguments.all),
        as_text(view, time.time(), known=arguments.all, long=arguments.long),
        indent=2,
    )
    return Exit.OK


async def ask(arguments: argparse.Namespace) -> NetworkView:
    """Ask the kernel that the arguments name."""
    async with KernelClient.connect(where(arguments).kernel, timeout=arguments.timeout) as client:
        return await look(client)


def as_json(view: NetworkView, *, known: bool) -> dict[str, Any]:
    """Return `{connected, discovery, known}`; `known` is null unless requested."""
    return {
        "connected": [peer.to_body() for peer in view.connected],
        "discovery": view.status.to_body(),
        "known": [peer.to_body() for peer in view.known.peers] if known else None,
    }


def as_text(view: NetworkView, now: float, *, known: bool = False, long: bool = False) -> Iterator[str]:
    """Format for a terminal. `now`: seconds since 1970."""
    yield from _summary(view)
    if view.connected:
        heads = ["peer", "way", "for", "found by", "serves", "shards", "mesh", "score", "address"]
        rows = sorted(view.connected, key=lambda peer: (not peer.mesh, -(peer.score or 0.0), peer.peer_id))
        yield ""
        yield table(
            (_connected(peer, long=long) for peer in rows),
            heads=[*heads, "agent"] if long else heads,
            right=(7,),
        )
    others = [peer for peer in view.known.peers if not peer.connected]
    if not known:
        if others:
            waiting = sum(peer.retry_ms > 0 for peer in others)
            waits = f", {waiting} of them only after a while" if waiting else ""
            yield ""
            yield f"{count(len(others), 'more peer')} could be dialled{waits} (--all shows them)"
        return
    yield ""
    if not others:
        yield "no other peers are known"
        return
    yield table(
        (_known(peer, now, long=long) for peer in others),
        heads=(
            "not connected",
            "found by",
            "serves",
            "shards",
            "last there",
            "failed",
            "next dial",
            "address",
            "why",
        ),
        right=(5,),
    )
    if view.known.total > len(view.known.peers):
        yield f"and {view.known.total - len(view.known.peers)} more"


def _summary(view: NetworkView) -> Iterator[str]:
    status = view.status
    inbound = sum(peer.direction == "inbound" for peer in view.connected)
    ways = f" ({inbound} in, {len(view.connected) - inbound} out)" if view.connected else ""
    state = "" if status.online else "; offline: the network was not heard from lately"
    yield f"{count(len(view.connected), 'peer')} connected{ways}, {status.known} known{state}"
    if wanted := wanted_peers(status):
        yield f"looking for more {wanted}"
    for one in view.configured:
        if not one.connected:
            yield f"{one.option} {one_line(one.address)} is not connected"


def _connected(peer: PeerRecord, *, long: bool) -> Sequence[object]:
    mesh = {int(number) for topic in peer.mesh if (number := topic.rpartition("/")[2]).isdecimal()}
    row = (
        _peer_id(peer.peer_id, long=long),
        "in" if peer.direction == "inbound" else "out",
        duration(peer.connected_ms / 1000),
        one_line(peer.origin),
        _services(peer.protocols),
        _shards({*peer.shards, *mesh}),  # its advertised shards may be older than our mesh
        _shards(mesh),
        "" if peer.score is None else f"{peer.score:.1f}",
        one_line(peer.address),
    )
    return (*row, one_line(peer.agent)[:40]) if long else row


def _known(peer: KnownRecord, now: float, *, long: bool) -> Sequence[object]:
    last = peer.last_success_ms / 1000
    return (
        _peer_id(peer.peer_id, long=long),
        one_line(peer.origin),
        _services(peer.protocols),
        _shards(peer.shards),
        f"{duration(max(0.0, now - last))} ago" if last else "never",
        peer.failures or "",
        f"in {duration(peer.retry_ms / 1000)}" if peer.retry_ms else "if wanted",
        one_line(peer.addresses[0].partition("/p2p/")[0]) if peer.addresses else "",
        reason(peer)[:80],
    )


def _peer_id(peer_id: str, *, long: bool) -> str:
    return one_line(peer_id if long else f"…{peer_id[-12:]}")


def _services(protocols: Sequence[str]) -> str:
    found = [name for mark, name in _SERVICES if any(mark in protocol for protocol in protocols)]
    return " ".join(found)


def _shards(shards: Collection[int]) -> str:
    shown = ",".join(map(str, sorted(shards)[:8]))
    return shown + ",…" if len(shards) > 8 else shown
