"""Driver of `js/relay_peer.mjs`: a js-waku relay node on js-libp2p, in a Node.js process of its own."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.json_lines import Event, JsonLinesProcess

JS_FOLDER = Path(__file__).parent / "js"


@dataclass(frozen=True, slots=True)
class JsMessage:
    """A WakuMessage as js-waku decoded it."""

    hash: bytes
    """The deterministic message hash, computed by js-waku."""
    pubsub_topic: str
    content_topic: str
    payload: bytes
    timestamp: int
    """Nanoseconds since 1970; 0 when absent."""
    meta: bytes
    version: int
    ephemeral: bool


@dataclass(frozen=True, slots=True)
class JsConnection:
    """One libp2p connection as js-libp2p sees it: multiaddr, `inbound` or `outbound`, protocol ids."""

    address: str
    direction: str
    muxer: str
    encryption: str


@dataclass(frozen=True, slots=True)
class JsPeer:
    """What js-libp2p knows of a connected peer (agent and protocols from identify)."""

    peer_id: str
    agent: str
    protocols: tuple[str, ...]
    connections: tuple[JsConnection, ...]


@dataclass(frozen=True, slots=True)
class JsMesh:
    """Peer ids in js-waku's mesh for a topic, and those that it knows to be subscribed."""

    mesh: tuple[str, ...]
    subscribers: tuple[str, ...]


class JsWakuPeer(JsonLinesProcess):
    """One js-waku relay node. `transports` of tcp, ws; `muxers` of yamux, mplex, in order of preference.

    `seed` (32 bytes) and the ports make a restarted node the same peer at the same address.
    """

    def __init__(
        self,
        *,
        transports: Sequence[str] = ("tcp", "ws"),
        muxers: Sequence[str] = ("yamux", "mplex"),
        cluster: int = 42,
        shards: Sequence[int] = (0,),
        tcp_port: int = 0,
        ws_port: int = 0,
        seed: bytes | None = None,
        deadline: float = 30.0,
    ) -> None:
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError("there is no `node` executable")
        command = [node, "--import", "./polyfill.mjs", "relay_peer.mjs"]
        command += ["--transports", ",".join(transports), "--muxers", ",".join(muxers)]
        command += ["--tcp-port", str(tcp_port), "--ws-port", str(ws_port)]
        command += ["--cluster", str(cluster), "--shards", ",".join(map(str, shards))]
        if seed is not None:
            command += ["--seed", seed.hex()]
        super().__init__("js-waku", command, cwd=JS_FOLDER)
        try:
            ready = self.wait_event("ready", deadline=deadline)
        except BaseException:
            self.kill()
            raise
        self.peer_id: str = ready["peerId"]
        self.addresses: tuple[str, ...] = tuple(ready["addresses"])

    def address(self, transport: str) -> str:
        """The full multiaddr (with /p2p) that it listens on by `tcp` or `ws`."""
        return next(text for text in self.addresses if ("/ws" in text) == (transport == "ws"))

    def dial(self, address: str, *, deadline: float = 15.0) -> str:
        """Connect to a multiaddr; returns the peer id."""
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
        """Relay one message; returns js-waku's message hash and the peers that it was sent to."""
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

    def peers(self) -> dict[str, JsPeer]:
        """Connected peers by id."""
        return {
            peer["peerId"]: JsPeer(
                peer["peerId"],
                peer["agent"],
                tuple(peer["protocols"]),
                tuple(JsConnection(**connection) for connection in peer["connections"]),
            )
            for peer in self.request("peers")
        }

    def mesh(self, *, shard: int = 0) -> JsMesh:
        result = self.request("mesh", shard=shard)
        return JsMesh(tuple(result["mesh"]), tuple(result["subscribers"]))

    # --- events -------------------------------------------------------------------------------------------

    def next_message(
        self, matches: Callable[[JsMessage], bool] = lambda message: True, *, deadline: float = 10.0
    ) -> JsMessage:
        """Take the first reported message that matches."""
        event = self.wait_event("message", lambda entry: matches(_message(entry)), deadline=deadline)
        return _message(event)

    def wait_connected(self, peer_id: str, *, deadline: float = 15.0) -> None:
        self.wait_event("connected", lambda event: bool(event["peerId"] == peer_id), deadline=deadline)

    def wait_disconnected(self, peer_id: str, *, deadline: float = 15.0) -> None:
        self.wait_event("disconnected", lambda event: bool(event["peerId"] == peer_id), deadline=deadline)

    def wait_meshed(self, peer_id: str, *, deadline: float = 15.0) -> None:
        """Until the peer is grafted on js-waku's side (by either of the two)."""
        self.wait_event(
            "mesh",
            lambda event: bool(event["peerId"] == peer_id and event["change"] == "graft"),
            deadline=deadline,
        )

    def wait_shards(self, peer_id: str, *, deadline: float = 15.0) -> tuple[int, tuple[int, ...]]:
        """Cluster and shards of a peer's metadata, once js-waku has stored it."""
        event = self.wait_event("shards", lambda entry: bool(entry["peerId"] == peer_id), deadline=deadline)
        return event["clusterId"], tuple(event["shards"])


def _message(event: Event) -> JsMessage:
    return JsMessage(
        hash=bytes.fromhex(event["hash"]),
        pubsub_topic=event["pubsubTopic"],
        content_topic=event["contentTopic"],
        payload=base64.b64decode(event["payload"]),
        timestamp=int(event["timestamp"]),
        meta=base64.b64decode(event["meta"]),
        version=event["version"],
        ephemeral=event["ephemeral"],
    )
