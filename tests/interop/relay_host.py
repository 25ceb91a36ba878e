"""The kernel's host, relay and metadata alone in a process, behind the commands of `js/relay_peer.mjs`.

    python -m tests.interop.relay_host [--tcp-port 0] [--ws-port 0] [--cluster 42] [--shards 0] [--seed HEX]
        [--static MULTIADDR …] [--degree 6]

What is between libp2p and the IPC sockets, without the IPC: where a test of the whole kernel fails and one
with this process does not, the fault is above the relay. A port of -1 leaves the transport out; `subscribe`
is accepted, and every message on the shards is reported.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import SystemRandom
from typing import Any

import trio

from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import EndCause, Host, P2pError, PeerConnection, PeerIdentity
from kernel_proc.p2p.host import Libp2pHost
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.peers.dialer import StaticDialer
from kernel_proc.protocols.metadata import Metadata, MetadataProtocol
from kernel_proc.relay.messages import RelayError, RelayMessage
from kernel_proc.relay.params import GossipParams, RelayParams
from kernel_proc.relay.service import RelayService

Arguments = dict[str, Any]
_LARGEST_LINE = 1024 * 1024


class UnknownPeerError(Exception):
    """A command named a peer that has sent no metadata."""


def emit(line: Arguments) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class RelayHost:
    """The node, and one method for each command."""

    def __init__(self, host: Host, cluster: int, shards: list[int], gossip: GossipParams) -> None:
        self._host = host
        self._cluster = cluster
        self._meshes: dict[str, set[str]] = {}
        self.topics = [self._topic(shard) for shard in shards]
        self.relay = RelayService(
            host, RelayParams(gossip=gossip), on_message=self._message, on_change=self._changed
        )
        self.metadata = MetadataProtocol(host, cluster=cluster, shards=lambda: shards, learned=self._learned)
        host.add_listener(self)

    def _topic(self, shard: int) -> str:
        return f"/waku/2/rs/{self._cluster}/{shard}"

    # --- what the node reports ----------------------------------------------------------------------------

    def peer_connected(self, connection: PeerConnection) -> None:
        emit({"event": "connected", "peerId": connection.peer_id})

    def peer_identified(self, identity: PeerIdentity) -> None:
        """Nothing to report."""

    def peer_disconnected(self, peer_id: str, reason: str, cause: EndCause = EndCause.OTHER) -> None:
        emit({"event": "disconnected", "peerId": peer_id, "reason": reason})

    def _learned(self, peer_id: str, metadata: Metadata) -> None:
        shards = {"clusterId": metadata.cluster, "shards": metadata.shards}
        emit({"event": "shards", "peerId": peer_id, **shards})

    def _changed(self, topics: frozenset[str]) -> None:
        for topic in topics:
            before, now = self._meshes.get(topic, set()), set(self.relay.mesh_peers(topic))
            self._meshes[topic] = now
            for change, peers in (("graft", now - before), ("prune", before - now)):
                for peer_id in peers:
                    emit({"event": "mesh", "change": change, "peerId": peer_id, "pubsubTopic": topic})

    def _message(self, received: RelayMessage) -> None:
        message = received.message
        emit(
            {
                "event": "message",
                "hash": message_hash(received.topic, message).hex(),
                "pubsubTopic": received.topic,
                "contentTopic": message.content_topic,
                "payload": base64.b64encode(message.payload).decode(),
                "timestamp": str(message.timestamp),
                "meta": base64.b64encode(message.meta).decode(),
                "version": message.version,
                "ephemeral": message.ephemeral,
            }
        )

    # --- commands -----------------------------------------------------------------------------------------

    async def dial(self, *, address: str) -> Arguments:
        return {"peerId": await self._host.connect(address)}

    async def hangup(self, *, peer_id: str) -> Arguments:
        await self._host.disconnect(peer_id, "requested")
        return {}

    async def subscribe(self, **_: object) -> Arguments:
        return {}

    async def publish(
        self,
        *,
        content_topic: str,
        payload: str,
        timestamp_ms: int | None = None,
        meta: str = "",
        ephemeral: bool = False,
        shard: int = 0,
    ) -> Arguments:
        message = WakuMessage(
            base64.b64decode(payload),
            content_topic,
            timestamp=time.time_ns() if timestamp_ms is None else timestamp_ms * 1_000_000,
            meta=base64.b64decode(meta),
            ephemeral=ephemeral,
        )
        topic = self._topic(shard)
        # Flood publish: with no queue full, all subscribers are sent to.
        peers = self.relay.topic_peers(topic)
        result = await self.relay.publish(topic, encode_message(message))
        if result.peers != len(peers):
            raise RuntimeError(f"sent to {result.peers} of {len(peers)} peers")
        return {"hash": message_hash(topic, message).hex(), "peers": peers}

    async def peers(self) -> list[Arguments]:
        return [self._peer(connection) for connection in self._host.connections()]

    def _peer(self, connection: PeerConnection) -> Arguments:
        identity = self._host.identity(connection.peer_id)
        link = {
            "address": connection.address,
            "direction": connection.direction,
            "muxer": "",
            "encryption": "",
        }
        return {
            "peerId": connection.peer_id,
            "agent": identity.agent if identity else "",
            "protocols": identity.protocols if identity else (),
            "connections": [link],
        }

    async def metadata_of(self, *, peer_id: str) -> Arguments:
        shards = self.metadata.peer_shards(peer_id)
        if shards is None:
            raise UnknownPeerError(peer_id)
        return {"clusterId": self._cluster, "shards": shards}

    async def mesh(self, *, shard: int = 0) -> Arguments:
        topic = self._topic(shard)
        return {"mesh": self.relay.mesh_peers(topic), "subscribers": self.relay.topic_peers(topic)}

    def commands(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        named = (self.dial, self.hangup, self.subscribe, self.publish, self.peers, self.mesh)
        return {"metadata": self.metadata_of, **{command.__name__: command for command in named}}


async def read_lines(descriptor: int) -> AsyncIterator[str]:
    """Lines of a pipe until it ends."""
    rest = b""
    async with trio.lowlevel.FdStream(os.dup(descriptor)) as stream:
        async for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode()
            if len(rest) > _LARGEST_LINE:
                raise ValueError("line too long")


_SNAKE = {"contentTopic": "content_topic", "timestampMs": "timestamp_ms", "peerId": "peer_id"}


async def obey(node: RelayHost) -> None:
    """Run commands until `stop` or the end of stdin."""
    commands = node.commands()
    async with trio.open_nursery() as nursery:
        async for line in read_lines(0):
            command = json.loads(line)
            number, name = command.pop("id"), command.pop("cmd")
            if name == "stop":
                emit({"id": number, "ok": True, "result": {}})
                break
            arguments = {_SNAKE.get(key, key): value for key, value in command.items()}
            nursery.start_soon(run, number, commands[name], arguments)
        nursery.cancel_scope.cancel()


async def run(number: int, command: Callable[..., Awaitable[Any]], arguments: Arguments) -> None:
    try:
        emit({"id": number, "ok": True, "result": await command(**arguments)})
    except (P2pError, RelayError, UnknownPeerError, RuntimeError) as error:
        emit({"id": number, "ok": False, "error": f"{type(error).__name__}: {error}"})


def gossip_params(degree: int | None) -> GossipParams:
    """With a degree: a mesh of exactly so many, and others named to who finds no place in it."""
    if degree is None:
        return GossipParams()
    return GossipParams(d=degree, d_low=degree, d_high=degree, d_score=degree, d_out=0, peer_exchange=True)


async def serve(options: argparse.Namespace) -> None:
    key = NodeKey(bytes.fromhex(options.seed)) if options.seed else NodeKey.generate()
    ports = ((options.tcp_port, ""), (options.ws_port, "/ws"))
    listen = [f"/ip4/127.0.0.1/tcp/{port}{suffix}" for port, suffix in ports if port >= 0]
    async with Libp2pHost(key=key, listen=listen).run() as host, trio.open_nursery() as nursery:
        node = RelayHost(host, options.cluster, options.shards, gossip_params(options.degree))
        dialer = StaticDialer(host, options.static, Registry(), SystemRandom())
        host.add_listener(dialer)
        await nursery.start(node.relay.run)
        for topic in node.topics:
            node.relay.subscribe(topic)
        nursery.start_soon(node.metadata.run)
        nursery.start_soon(dialer.run)
        emit({"event": "ready", "peerId": host.peer_id, "addresses": list(host.listen_addresses)})
        await obey(node)
        nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tcp-port", type=int, default=0)
    parser.add_argument("--ws-port", type=int, default=0)
    parser.add_argument("--cluster", type=int, default=42)
    parser.add_argument("--shards", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--seed", default="")
    parser.add_argument("--degree", type=int)
    parser.add_argument("--static", nargs="*", default=[])
    trio.run(partial(serve, parser.parse_args()))


if __name__ == "__main__":
    main()
