"""`logos status`: the state of a node's processes, as they report it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ipc_schema.kernel.records import NodeHealth, PeerRecord, ProtocolHealth, ProtocolState
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_deploy.commands.health import NodeReadiness, ask_both
from logos_deploy.commands.output import Screen, print_json, print_result
from logos_deploy.commands.pending import by_state
from logos_deploy.commands.where import NodePlace, add_query_options, where
from logos_deploy.control import ControlHealth, gateway_addresses
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.network_view import reachable_text
from logos_deploy.session import run_interruptible
from logos_deploy.text import count, duration, one_line, size, table

HELP: Final = "show a node's processes, peers, shards and apps"

_INFO: Final = ("MyPeerId", "MyMultiaddresses", "MaxMessageSize")
_PEERS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus(NodeReadiness):
    """With what the kernel's requests socket answers; None: no answer."""

    peers: list[PeerRecord] | None
    info: dict[str, object] | None
    gateway: tuple[int, dict[str, str]] | None
    """Process id and URLs of the running gateway."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="refresh until Ctrl-C, in place on a terminal (default: every 2 s)",
    )
    add_query_options(parser, seconds=3.0)


def run(arguments: argparse.Namespace) -> int:
    if arguments.watch is not None and not arguments.watch >= 0.1:
        raise CommandError(Exit.USAGE, "--watch: at least 0.1 s")
    place = where(arguments)
    if arguments.watch is None:
        return run_interruptible(_once(place, arguments))
    return run_interruptible(_watch(place, arguments), interrupted=Exit.OK)


async def _once(place: NodePlace, arguments: argparse.Namespace) -> int:
    status = await gather(place, arguments.timeout)
    print_result(arguments, as_json(status), as_text(status, place), indent=2)
    return status.exit


async def _watch(place: NodePlace, arguments: argparse.Namespace) -> int:
    screen = Screen()
    while True:
        status = await gather(place, arguments.timeout)
        if arguments.json:
            print_json(as_json(status))  # one document on each line
        else:
            head = f"{datetime.now().astimezone():%H:%M:%S}  {place.data_dir}"
            screen.show("\n".join((head, *as_text(status, place))))
        await asyncio.sleep(arguments.watch)


async def gather(place: NodePlace, timeout: float) -> NodeStatus:
    """Ask all processes concurrently; none delays the others."""
    async with asyncio.TaskGroup() as group:
        both = group.create_task(ask_both(place, timeout))
        facts = group.create_task(_facts(place, timeout))
    found, (peers, info) = both.result(), facts.result() or (None, None)
    return NodeStatus(
        kernel=found.kernel,
        mapi=found.mapi,
        mapi_expected=found.mapi_expected,
        peers=peers,
        info=info,
        gateway=gateway_addresses(place.run_dir),
    )


async def _facts(place: NodePlace, timeout: float) -> tuple[list[PeerRecord], dict[str, object]] | None:
    try:
        async with asyncio.timeout(timeout):
            async with KernelClient.connect(place.kernel, timeout=timeout) as client:
                peers, info = await client.peers(), await client.info(_INFO)
                for name in ("Build", "Reachability"):
                    with suppress(LogosError):  # an older kernel that is still running does not know it
                        info |= await client.info((name,))
                return peers, info
    except (LogosError, TimeoutError):
        return None


# --- for programs -----------------------------------------------------------------------------------------


def as_json(status: NodeStatus) -> dict[str, Any]:
    """Return `{kernel, mapi, gateway}`, null for a process that does not answer. Bytes become hex."""
    kernel: dict[str, Any] | None = None
    if status.kernel is not None:
        kernel = {**status.kernel.common.to_body(), **status.kernel.more}
        kernel["peers"] = None if status.peers is None else [peer.to_body() for peer in status.peers]
        kernel["info"] = status.info
    mapi = None if status.mapi is None else {**status.mapi.common.to_body(), **status.mapi.more}
    gateway = None if status.gateway is None else {"pid": status.gateway[0], **status.gateway[1]}
    return {"kernel": kernel, "mapi": mapi, "gateway": gateway}


# --- for people -------------------------------------------------------------------------------------------


def as_text(status: NodeStatus, place: NodePlace) -> Iterator[str]:
    """Format for a terminal."""
    if status.kernel is None and status.mapi is None:
        yield f"no node answers in {place.data_dir} (start one with: logos up --data-dir {place.data_dir})"
        return
    yield from _process("kernel", status.kernel, place.kernel.control)
    if status.kernel is not None:
        yield from _kernel(status)
    if status.mapi is None and not status.mapi_expected:
        yield f"{'mapi':<7} none"
    else:
        yield from _process("mapi", status.mapi, place.mapi.control)
    if status.mapi is not None:
        yield from _mapi(status.mapi.more)
    if status.gateway is not None:
        pid, served = status.gateway
        yield f"gateway process {pid}, {', '.join(f'{what} at {url}' for what, url in served.items())}"


def _process(name: str, health: ControlHealth | None, endpoint: str) -> Iterator[str]:
    if health is None:
        yield f"{name:<7} no answer at {endpoint}"
        return
    common = health.common
    yield (
        f"{name:<7} {common.state}, version {common.version}, process {common.pid}, "
        f"up {duration(common.uptime_ms / 1000)}"
    )


def _line(key: str, text: str) -> str:
    return f"  {key:<11} {text}"


def _causes(protocols: list[ProtocolHealth]) -> dict[str, list[str]]:
    """Why protocols are not ready: the cause, and the names of those that have it."""
    causes: dict[str, list[str]] = {}
    for protocol in protocols:
        if protocol.state == ProtocolState.NOT_READY and protocol.description:
            causes.setdefault(one_line(protocol.description), []).append(one_line(protocol.name))
    return causes


def _kernel(status: NodeStatus) -> Iterator[str]:
    assert status.kernel is not None
    health = NodeHealth.from_body(status.kernel.more.get("health", {"state": status.kernel.common.state}))
    if status.info is not None:
        yield _line("peer id", str(status.info.get("MyPeerId", "")))
        yield _line("build", str(status.info.get("Build", "")))
        addresses = status.info.get("MyMultiaddresses")
        for address in addresses if isinstance(addresses, list | tuple) else ():
            yield _line("listens on", str(address))
        if reachable := reachable_text(status.info.get("Reachability")):
            yield _line("reachable", reachable)
    mounted = [part for part in health.protocols if part.state != ProtocolState.NOT_MOUNTED]
    yield _line(
        "protocols", ", ".join(f"{p.name} {p.state} ({count(p.strength, 'peer')})" for p in mounted) or "none"
    )
    for why, names in _causes(mounted).items():
        yield _line("not ready", f"{', '.join(names)}: {why}")
    for shard in health.shards:
        peers = f"{shard.mesh_peers} in the mesh of {count(shard.connected_peers, 'peer')}"
        yield _line(f"shard {shard.shard}", f"{shard.health}, {peers}, {shard.pubsub_topic}")
    loop = health.event_loop
    yield _line("event loop", f"{loop.lag_ms:.1f} ms late, {loop.load_1m:.0%} busy in the last minute")
    if status.peers is None:
        yield _line("peers", "unknown: the kernel does not answer requests")
        return
    yield _line("peers", str(len(status.peers)))
    rows = [
        (
            f"    {one_line(peer.peer_id)}",
            peer.direction,
            duration(peer.connected_ms / 1000),
            "mesh" if peer.mesh else "",
            one_line(peer.agent)[:40],
            one_line(peer.address),
        )
        for peer in status.peers[:_PEERS_SHOWN]
    ]
    if rows:
        yield table(rows)
    if len(status.peers) > _PEERS_SHOWN:
        yield f"    … and {len(status.peers) - _PEERS_SHOWN} more (--json has all)"


def _mapi(more: dict[str, Any]) -> Iterator[str]:
    """Format MAPI's own part, which may grow: absent keys are not shown."""
    connection = str(more.get("connection", "unknown"))
    if reason := more.get("reason"):
        connection += f": {reason}"
    if more.get("resyncing"):
        connection += ", catching up with the kernel"
    yield _line("connection", connection)
    if build := more.get("build"):
        yield _line("build", str(build))
    apps, sends, receive, database = (_map(more.get(key)) for key in ("apps", "sends", "receive", "database"))
    if network := _map(more.get("network")):
        shown = network.get("preset") or f"cluster {network.get('cluster')}"
        yield _line(
            "network",
            f"{shown}, {_shards(network.get('shard_count'))}, "
            f"messages up to {size(int(network.get('max_message_size', 0)))}",
        )
    for shard, shard_health in _map(more.get("shards")).items():
        yield _line(f"shard {shard}", str(shard_health))
    if apps:
        yield _line(
            "apps",
            f"{apps.get('connected')} connected, {apps.get('known')} known, "
            f"{count(int(more.get('topics', 0)), 'content topic')}",
        )
    if sends:
        yield _line(
            "sent",
            f"{sends.get('accepted')} accepted, {sends.get('propagated')} propagated, "
            f"{sends.get('failed')} given up, {sends.get('pending')} pending"
            + (f" ({waiting})" if (waiting := by_state(_map(sends.get("states")))) else ""),
        )
        if sends.get("cause") and sends.get("pending"):
            yield _line("not sent", str(sends["cause"]))
    if receive:
        yield _line(
            "received",
            f"{receive.get('accepted')} messages, {receive.get('missed_ranges', 0)} times reported missing",
        )
    if database:
        why = f" ({database['reason']})" if database.get("reason") else ""
        yield _line("database", f"{database.get('state')}{why}")


def _shards(number: object) -> str:
    return count(number, "shard") if isinstance(number, int) and number else "static sharding"


def _map(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
