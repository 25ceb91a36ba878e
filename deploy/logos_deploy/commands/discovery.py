"""`logos discovery`: how a node finds its peers; read a node list; start and stop discv5."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from ipc_schema.kernel.discovery import Discv5Record, ListRecord
from logos_client.exceptions import NoPeersError
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import as_lines, print_json, print_result
from logos_deploy.commands.where import add_query_options, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.checkup import Level
from logos_deploy.node.network_view import NetworkView, diagnose, look, wanted_peers
from logos_deploy.text import count, duration, one_line, table

HELP: Final = "show how a node finds its peers, and problems with it; read a node list"

_LIST_SECONDS: Final = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_query_options(parser)
    # Not from `add_where` again: a default behind the subcommand must not override a value before it.
    actions = parser.add_subparsers(dest="action", metavar="action")
    listing = actions.add_parser(
        "list", help="have this node read a signed node list in the DNS (EIP-1459)", allow_abbrev=False
    )
    listing.add_argument("url", metavar="enrtree://…")
    listing.add_argument("--name-server", metavar="IP[:PORT]", help="DNS server (default: as configured)")
    listing.add_argument(
        "--use", action="store_true", help="add the nodes to the peer store, and dial those wanted"
    )
    start = actions.add_parser("start", help="start discv5, until the kernel ends", allow_abbrev=False)
    stop = actions.add_parser("stop", help="stop discv5, until the kernel ends", allow_abbrev=False)
    boot = actions.add_parser("bootnodes", help="set the bootstrap nodes of discv5", allow_abbrev=False)
    boot.add_argument("enrs", nargs="+", metavar="enr:…")
    boot.add_argument(
        "--add", action="store_true", help="in addition to the current ones, not in their place"
    )
    for action in (listing, start, stop, boot):
        add_query_options(action, again=True)


def run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    async with KernelClient.connect(where(arguments).kernel, timeout=arguments.timeout) as client:
        match arguments.action:
            case "list":
                return await _list(client, arguments)
            case "start" | "stop":
                return await _switch(client, arguments)
            case "bootnodes":
                return await _boot_nodes(client, arguments)
            case _:
                return _show(await look(client), arguments)


# --- the state --------------------------------------------------------------------------------------------


def _show(view: NetworkView, arguments: argparse.Namespace) -> int:
    print_result(arguments, as_json(view), as_text(view, time.time()), indent=2)
    return Exit.OK


def as_json(view: NetworkView) -> dict[str, Any]:
    """Return `{status, cluster, connected, configured, findings}`."""
    return {
        "cluster": view.cluster,
        "connected": len(view.connected),
        "status": view.status.to_body(),
        "configured": view.configured,
        "findings": list(diagnose(view)),
    }


def as_text(view: NetworkView, now: float) -> Iterator[str]:
    """Format for a terminal. `now`: seconds since 1970."""
    yield table(_rows(view, now))
    # the rows show the state already
    troubles = [one for one in diagnose(view) if one.level is not Level.OK and one.subject != "peers"]
    if troubles:
        yield ""
        yield from as_lines(troubles)


def _rows(view: NetworkView, now: float) -> Iterator[tuple[str, str]]:
    status = view.status
    yield "own record", status.enr
    for address in status.addresses or ("nothing: no other node can dial this one",):
        yield "announces", one_line(address)
    yield "cluster", str(view.cluster)
    for shard in view.shards:
        peers = f"{shard.mesh_peers} in the mesh of {count(shard.connected_peers, 'peer')}"
        yield f"shard {shard.shard}", f"{shard.health}, {peers}"
    waiting = status.known - status.due
    wait = f", {waiting} to be dialled only after a while" if waiting else ""
    offline = "" if status.online else "; the network was not heard from lately"
    yield "peers", f"{len(view.connected)} connected, {status.known} known{wait}{offline}"
    yield "looks for", wanted_peers(status) or "none: the node has the peers it wants"
    yield "discv5", "; ".join(_discv5(view.status.discv5))
    for one in status.lists:
        yield "list", ", ".join(_list_of_nodes(one, now))
    yield "peer exchange", "while more peers are wanted" if status.peer_exchange else "off"
    for peer in view.configured:
        if peer.connected:  # the others get findings
            yield peer.option, f"{one_line(peer.address)} is connected"


def _discv5(discv5: Discv5Record) -> Iterator[str]:
    if not discv5.running:
        yield "off"
        return
    yield f"UDP port {discv5.port}"
    yield f"{count(discv5.nodes, 'node')} in its table, {discv5.verified} of them have answered"
    yield count(discv5.boot_nodes, "boot node")
    if discv5.observed:
        yield f"others see us at {discv5.observed}"


def _list_of_nodes(one: ListRecord, now: float) -> Iterator[str]:
    yield f"{one_line(one.url.partition('@')[2])}: {count(one.records, 'node')}"
    yield f"read {duration(max(0.0, now - one.read_ms / 1000))} ago" if one.read_ms else "not read yet"


# --- actions ----------------------------------------------------------------------------------------------


async def _list(client: KernelClient, arguments: argparse.Namespace) -> int:
    try:
        found = await client.discovery_list(
            arguments.url, name_server=arguments.name_server, use=arguments.use, timeout=_LIST_SECONDS
        )
    except NoPeersError as error:
        raise CommandError(Exit.FAILED, f"the list cannot be read: {error.message}") from None
    if arguments.json:
        print_json(found.to_body(), indent=2)
        return Exit.OK
    print(f"version {found.seq}: {count(len(found.enrs), 'node')}", file=sys.stderr)
    for enr in found.enrs:
        print(enr)
    for problem in found.errors:
        print(f"left out: {one_line(problem)}", file=sys.stderr)
    return Exit.OK


async def _switch(client: KernelClient, arguments: argparse.Namespace) -> int:
    if arguments.action == "start":
        reply = await client.discovery_start()
    else:
        reply = await client.discovery_stop()
    if arguments.json:
        print_json(reply.to_body())
    else:
        now = "runs" if reply.running else "does not run"
        print(f"discv5 {now}{'' if reply.changed else ', as before'}")
    return Exit.OK


async def _boot_nodes(client: KernelClient, arguments: argparse.Namespace) -> int:
    number = await client.discovery_bootnodes(arguments.enrs, add=arguments.add)
    print_result(arguments, {"boot_nodes": number}, f"discv5 has {count(number, 'boot node')}")
    return Exit.OK
