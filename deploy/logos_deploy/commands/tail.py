"""`logos tail`: a kernel's events as they happen: messages, health, peers."""

from __future__ import annotations

import argparse
import base64
import time
from collections.abc import Iterator
from typing import Any, Final

from ipc_schema.kernel.records import NodeHealth, TopicHealth
from logos_client.kernel import KernelClient
from logos_client.kernel_events import (
    HealthEvent,
    KernelEvent,
    KernelFound,
    KernelLost,
    KernelMessage,
    PeerEvent,
    PeersSnapshot,
    StreamLoss,
    source_name,
)
from logos_deploy.commands.output import clock_time, print_json
from logos_deploy.commands.where import NodePlace, add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.session import run_interruptible
from logos_deploy.text import count, one_line, payload_text, size

HELP: Final = "print the kernel's events: messages (without payloads), health, peers"

_CONNECT: Final = 3.0
_KINDS: Final = ("messages", "health", "peers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", choices=_KINDS, action="append", help="only these (may be repeated; default: all)"
    )
    parser.add_argument(
        "--shard",
        type=int,
        action="append",
        metavar="N",
        help="messages of this shard, which the node joins for as long as this runs (may be repeated; "
        "default: those that the node is on, and nothing is joined)",
    )
    parser.add_argument("--payload", action="store_true", help="include payloads")
    parser.add_argument("--count", type=int, metavar="N", help="stop after so many events")
    parser.add_argument("--json", action="store_true", help="one JSON object per event")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.count is not None and arguments.count < 1:
        raise CommandError(Exit.USAGE, "--count: at least 1")
    return run_interruptible(_tail(where(arguments), arguments), interrupted=Exit.OK)


async def _tail(place: NodePlace, arguments: argparse.Namespace) -> int:
    wanted = set(arguments.only or _KINDS)
    async with KernelClient.connect(place.kernel, timeout=_CONNECT) as client:
        health = await client.health()
        shards = arguments.shard or _joined(health)
        if "messages" not in wanted:
            shards = []
        if not shards and wanted == {"messages"}:
            raise CommandError(Exit.DATA, "the node is on no shard now: name one with --shard")
        printer = Printer(as_json=arguments.json, payloads=arguments.payload, health=health)
        feed = client.events(
            shards=shards,
            health="health" in wanted,
            peers="peers" in wanted,
            # an observer must not make the node join a shard
            lease=arguments.shard is not None,
        )
        seen = 0
        async with feed:
            async for event in feed:
                printer.show(event)
                seen += 1
                if seen == arguments.count:
                    break
    return Exit.OK


def _joined(health: NodeHealth) -> list[int]:
    return [shard.shard for shard in health.shards if shard.health != TopicHealth.NOT_SUBSCRIBED]


class Printer:
    """Prints events; remembers the previous health, to show what changed."""

    def __init__(self, *, as_json: bool, payloads: bool, health: NodeHealth) -> None:
        self._json = as_json
        self._payloads = payloads
        self._health = health

    def show(self, event: KernelEvent) -> None:
        if self._json:
            print_json(as_object(event, payloads=self._payloads))
            return
        for line in self.lines(event):
            print(line, flush=True)

    def lines(self, event: KernelEvent) -> Iterator[str]:
        """Format the event for a terminal."""
        when = clock_time(getattr(event, "time_ns", None) or time.time_ns())
        match event:
            case KernelMessage():
                yield f"{when}  message  {_message(event)}"
                if self._payloads:
                    yield f"{'':14}{payload_text(event.payload)}"
            case HealthEvent(health=health):
                for change in health_changes(self._health, health):
                    yield f"{when}  health   {change}"
                self._health = health
            case PeerEvent(change=change, peer=peer):
                known = f"{peer.peer_id} {peer.direction} {peer.address} {peer.agent}"
                yield f"{when}  peer     {one_line(f'{change} {known}'.rstrip())}"
            case PeersSnapshot(peers=peers):
                yield f"{when}  peers    {count(len(peers), 'peer')}, requested: some events were lost"
            case StreamLoss():
                last = "?" if event.last is None else event.last
                yield f"{when}  lost     {event.stream} {event.first} to {last}: {event.reason}"
            case KernelLost(reason=reason):
                yield f"{when}  kernel   away: {reason}"
            case KernelFound(restarted=restarted):
                yield f"{when}  kernel   back{', started again' if restarted else ''}"


def _message(event: KernelMessage) -> str:
    marks = "".join(
        f" {mark}"
        for mark, there in (("ephemeral", event.ephemeral), ("proof", event.proof), ("meta", event.meta))
        if there
    )
    return (
        f"{event.stream} {event.seq}  0x{event.message_hash.hex()}  {size(len(event.payload))}  "
        f"{source_name(event.source)}{marks}  {one_line(event.content_topic)}"
    )


def health_changes(before: NodeHealth, after: NodeHealth) -> Iterator[str]:
    """Describe what changed; nothing if only figures changed."""
    if before.state != after.state:
        yield f"node {before.state} → {after.state}"
    known = {part.name: (part.state, part.strength) for part in before.protocols}
    for part in after.protocols:
        old = known.get(part.name)
        if old != (part.state, part.strength):
            yield f"{part.name} {part.state} ({count(part.strength, 'peer')})"
    shards = {shard.shard: shard for shard in before.shards}
    for shard in after.shards:
        if shards.pop(shard.shard, None) != shard:
            yield f"shard {shard.shard} {shard.health}, {shard.mesh_peers} in the mesh"
    for gone in shards:
        yield f"shard {gone} left"


def as_object(event: KernelEvent, *, payloads: bool) -> dict[str, Any]:
    """Convert the event for programs; its payload (base64) only if wanted, its size always."""
    match event:
        case KernelMessage():
            row: dict[str, Any] = {
                "event": "message",
                **{name: value for name, value in event._asdict().items() if name != "payload"},
                "message_hash": "0x" + event.message_hash.hex(),
                "source": source_name(event.source),
                "size": len(event.payload),
            }
            if payloads:
                row["payload"] = base64.b64encode(event.payload).decode()
            return row
        case HealthEvent():
            return {"event": "health", "time_ns": event.time_ns, "health": event.health.to_body()}
        case PeerEvent():
            return {
                "event": "peer",
                "time_ns": event.time_ns,
                "change": event.change,
                "peer": event.peer.to_body(),
            }
        case PeersSnapshot():
            return {"event": "peers", "peers": [peer.to_body() for peer in event.peers]}
        case StreamLoss():
            return {"event": "lost", **event._asdict()}
        case KernelLost():
            return {"event": "kernel_lost", "reason": event.reason}
        case KernelFound():
            return {"event": "kernel_found", "instance": event.instance, "restarted": event.restarted}
