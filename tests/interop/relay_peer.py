"""Relay nodes as the tests drive them: one interface for js-waku and for ours."""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.interop.inbox import Event, EventInbox
from tests.interop.json_lines import JsonLinesProcess


@dataclass(frozen=True, slots=True)
class SeenMessage:
    """A WakuMessage as the node decoded it."""

    hash: bytes
    """The deterministic message hash, computed by that node."""
    pubsub_topic: str
    content_topic: str
    payload: bytes
    timestamp: int
    """Nanoseconds since 1970; 0 when absent."""
    meta: bytes
    version: int
    ephemeral: bool


@dataclass(frozen=True, slots=True)
class Connection:
    """One libp2p connection: remote multiaddr, `inbound` or `outbound`, muxer and security protocol."""

    address: str
    direction: str
    muxer: str
    encryption: str


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """A connected peer, with the agent and protocols that identify reported."""

    peer_id: str
    agent: str
    protocols: tuple[str, ...]
    connections: tuple[Connection, ...]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Peer ids in the node's mesh for a topic, and those that it knows to be subscribed."""

    mesh: tuple[str, ...]
    subscribers: tuple[str, ...]


class RelayNode(EventInbox):
    """A relay node in processes of its own. As a context manager it is stopped at the end."""

    peer_id: str
    addresses: tuple[str, ...]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop it in good order; nothing to do if it is gone already."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL, and clean up."""

    def address(self, transport: str) -> str:
        """The full multiaddr (with /p2p) that it listens on by `tcp` or `ws`."""
        return next(text for text in self.addresses if ("/ws" in text) == (transport == "ws"))

    @abstractmethod
    def dial(self, address: str, *, deadline: float = 40.0) -> str:
        """Connect to a multiaddr; returns the peer id."""

    @abstractmethod
    def publish(
        self,
        content_topic: str,
        payload: bytes,
        *,
        timestamp_ms: int | None = None,
        meta: bytes | None = None,
        ephemeral: bool = False,
        shard: int = 0,
    ) -> tuple[bytes, tuple[str, ...]]:
        """Relay one message; returns the node's message hash and the peers that it was sent to."""

    @abstractmethod
    def peers(self) -> dict[str, ConnectedPeer]:
        """Connected peers by id."""

    # --- events -------------------------------------------------------------------------------------------

    def next_message(
        self, matches: Callable[[SeenMessage], bool] = lambda message: True, *, deadline: float = 30.0
    ) -> SeenMessage:
        """Take the first reported message that matches."""
        event = self.wait_event("message", lambda entry: matches(_message(entry)), deadline=deadline)
        return _message(event)

    def wait_connected(self, peer_id: str, *, deadline: float = 40.0) -> None:
        self.wait_event("connected", lambda event: bool(event["peerId"] == peer_id), deadline=deadline)

    def wait_disconnected(self, peer_id: str, *, deadline: float = 40.0) -> None:
        self.wait_event("disconnected", lambda event: bool(event["peerId"] == peer_id), deadline=deadline)

    def wait_meshed(self, peer_id: str, *, deadline: float = 40.0) -> None:
        """Until the peer is in this node's mesh (grafted by either of the two)."""
        self.wait_event(
            "mesh",
            lambda event: bool(event["peerId"] == peer_id and event["change"] == "graft"),
            deadline=deadline,
        )

    def wait_shards(self, peer_id: str, *, deadline: float = 40.0) -> tuple[int, tuple[int, ...]]:
        """Cluster and shards of a peer's metadata, once this node has stored it."""
        event = self.wait_event("shards", lambda entry: bool(entry["peerId"] == peer_id), deadline=deadline)
        return event["clusterId"], tuple(event["shards"])


class RelayPeer(JsonLinesProcess, RelayNode):
    """One relay node behind the commands and events that `js/relay_peer.mjs` lists at its top."""

    def __init__(self, name: str, command: Sequence[str], *, cwd: Path, deadline: float) -> None:
        super().__init__(name, command, cwd=cwd)
        try:
            ready = self.wait_event("ready", deadline=deadline)
        except BaseException:
            self.kill()
            raise
        self.peer_id = ready["peerId"]
        self.addresses = tuple(ready["addresses"])

    def dial(self, address: str, *, deadline: float = 40.0) -> str:
        return str(self.request("dial", address=address, deadline=deadline)["peerId"])

    def hang_up(self, peer_id: str) -> None:
        self.request("hangup", peerId=peer_id)

    def subscribe(self, content_topic: str, *, shard: int = 0) -> None:
        """Have the messages of a content topic reported (`next_message`)."""
        self.request("subscribe", contentTopic=content_topic, shard=shard)

    def publish(
        self,
        content_topic: str,
        payload: bytes,
        *,
        timestamp_ms: int | None = None,
        meta: bytes | None = None,
        ephemeral: bool = False,
        shard: int = 0,
    ) -> tuple[bytes, tuple[str, ...]]:
        arguments: dict[str, Any] = {"contentTopic": content_topic, "shard": shard, "ephemeral": ephemeral}
        arguments["payload"] = base64.b64encode(payload).decode()
        if timestamp_ms is not None:
            arguments["timestampMs"] = timestamp_ms
        if meta is not None:
            arguments["meta"] = base64.b64encode(meta).decode()
        result = self.request("publish", **arguments)
        return bytes.fromhex(result["hash"]), tuple(result["peers"])

    def metadata(self, peer_id: str) -> tuple[int, tuple[int, ...]]:
        """Ask the peer for its cluster and shards."""
        result = self.request("metadata", peerId=peer_id)
        return result["clusterId"], tuple(result["shards"])

    def peers(self) -> dict[str, ConnectedPeer]:
        return {
            peer["peerId"]: ConnectedPeer(
                peer["peerId"],
                peer["agent"],
                tuple(peer["protocols"]),
                tuple(Connection(**connection) for connection in peer["connections"]),
            )
            for peer in self.request("peers")
        }

    def mesh(self, *, shard: int = 0) -> Mesh:
        result = self.request("mesh", shard=shard)
        return Mesh(tuple(result["mesh"]), tuple(result["subscribers"]))


def _message(event: Event) -> SeenMessage:
    return SeenMessage(
        hash=bytes.fromhex(event["hash"]),
        pubsub_topic=event["pubsubTopic"],
        content_topic=event["contentTopic"],
        payload=base64.b64decode(event["payload"]),
        timestamp=int(event["timestamp"]),
        meta=base64.b64decode(event["meta"]),
        version=event["version"],
        ephemeral=event["ephemeral"],
    )
