"""A light node of js-waku's SDK, in a Node.js process of its own."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ipc_schema.message import WakuMessage
from tests.interop.inbox import Event
from tests.interop.json_lines import JsonLinesProcess

FOLDER = Path(__file__).parent
PROTOCOLS = ("store", "filter", "lightpush")


@dataclass(frozen=True, slots=True)
class JsMessage:
    """A message as js-waku decoded it, and the hash that js-waku computed over that."""

    hash: bytes
    pubsub_topic: str
    message: WakuMessage


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a message sent by lightpush."""

    hash: bytes
    """js-waku's own deterministic message hash."""
    peers: tuple[str, ...]
    """Peers that published it."""
    errors: tuple[str, ...]
    """js-waku's names of what the others ended in; the status codes are in its log (`wait_log`)."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A node record of peer exchange, as js-waku read it."""

    peer_id: str
    addresses: tuple[str, ...]
    cluster: int | None
    shards: tuple[int, ...]


class LightNode(JsonLinesProcess):
    """The commands and events that `light_node.mjs` lists at its top.

    `shards`: of the cluster, for autosharding; 0: static sharding, and a shard with every command.
    `ping_ms`: how often it pings the filter peers it has subscribed at. `peer_exchange`: it asks its peers
    for others, and dials those.
    """

    def __init__(
        self,
        *,
        cluster: int = 42,
        shards: int = 1,
        ping_ms: int = 60_000,
        peer_exchange: bool = False,
        deadline: float = 30.0,
    ) -> None:
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError("there is no `node` executable")
        command = [node, "--import", "./polyfill.mjs", "light_node.mjs"]
        command += ["--cluster", str(cluster), "--shards", str(shards), "--ping-ms", str(ping_ms)]
        if peer_exchange:
            command.append("--peer-exchange")
        super().__init__("js-waku", command, cwd=FOLDER, env={**os.environ, "DEBUG_COLORS": "no"})
        try:
            self.peer_id = str(self.wait_event("ready", deadline=deadline)["peerId"])
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- peers --------------------------------------------------------------------------------------------

    def dial(self, address: str) -> None:
        self.request("dial", address=address)

    def wait_for_peers(self, protocols: Sequence[str] = PROTOCOLS, *, seconds: float = 30.0) -> None:
        """The SDK's own `waitForPeers`: protocols identified and metadata exchanged."""
        milliseconds = int(seconds * 1000)
        self.request("wait", protocols=list(protocols), timeoutMs=milliseconds, deadline=seconds + 2)

    def join(self, address: str) -> None:
        """Dial a node that serves everything, and wait until the SDK would use it."""
        self.dial(address)
        self.wait_for_peers()

    def hang_up(self, peer_id: str) -> None:
        self.request("hangup", peerId=peer_id)

    def peers(self) -> dict[str, dict[str, Any]]:
        """Connected peers by id: protocols, and connections with address and muxer."""
        return {peer["peerId"]: peer for peer in self.request("peers")}

    def metadata(self, peer_id: str) -> tuple[int, tuple[int, ...]]:
        """Cluster and shards, asked of the peer."""
        result = self.request("metadata", peerId=peer_id)
        return result["cluster"], tuple(result["shards"])

    def exchange(self, peer_id: str, count: int) -> list[Discovered]:
        """Ask a peer for node records."""
        result = self.request("exchange", peerId=peer_id, count=count)
        assert result["error"] is None, result["error"]
        return [
            Discovered(peer["peerId"], tuple(peer["addresses"]), peer["cluster"], tuple(peer["shards"]))
            for peer in result["peers"]
        ]

    # --- services -----------------------------------------------------------------------------------------

    def send(
        self,
        content_topic: str,
        payload: bytes,
        *,
        timestamp_ms: int | None = None,
        meta: bytes | None = None,
        **options: Any,
    ) -> Pushed:
        """Lightpush, to one peer, once. Options: `ephemeral`, `shard`, `legacy` (v2)."""
        if timestamp_ms is None:
            timestamp_ms = time.time_ns() // 1_000_000
        if meta is not None:
            options["meta"] = base64.b64encode(meta).decode()
        result = self.request(
            "send",
            contentTopic=content_topic,
            payload=base64.b64encode(payload).decode(),
            timestampMs=timestamp_ms,
            **options,
        )
        return Pushed(
            bytes.fromhex(result["hash"]), tuple(result["successes"]), tuple(map(str, result["failures"]))
        )

    def query(
        self, *content_topics: str, hashes: Sequence[bytes] = (), cursor: bytes | None = None, **options: Any
    ) -> list[list[JsMessage | None]]:
        """All pages of a store query, in the order they came; None for a message without its data.

        Options: `forward`, `limit`, `data`, `timeStartMs`, `timeEndMs`, `shard`.
        """
        if hashes:
            options["hashes"] = [digest.hex() for digest in hashes]
        if cursor is not None:
            options["cursor"] = cursor.hex()
        pages = self.request("query", contentTopics=list(content_topics), **options)["pages"]
        return [[None if entry is None else _message(entry) for entry in page] for page in pages]

    def subscribe(self, *content_topics: str, **options: Any) -> bool:
        """Filter: have messages of the content topics pushed (`next_message`)."""
        return bool(self.request("subscribe", contentTopics=list(content_topics), **options)["ok"])

    def unsubscribe(self, *content_topics: str, **options: Any) -> bool:
        """Filter: the SDK does not wait for an answer."""
        return bool(self.request("unsubscribe", contentTopics=list(content_topics), **options)["ok"])

    def ping(self, peer_id: str) -> str | None:
        """Filter: ask a peer whether it has a subscription of ours. js-waku's name of the error, if any."""
        return _text(self.request("ping", peerId=peer_id)["error"])

    def leave(self, peer_id: str, **options: Any) -> str | None:
        """Filter: unsubscribe from everything at a peer, and wait for its answer."""
        return _text(self.request("leave", peerId=peer_id, **options)["error"])

    # --- events -------------------------------------------------------------------------------------------

    def next_message(self, *, deadline: float = 30.0) -> JsMessage:
        """Take the first message that was pushed."""
        return _message(self.wait_event("message", deadline=deadline))

    def wait_log(self, part: str, *, deadline: float = 30.0) -> str:
        """Take the first error in the SDK's log with this text in it."""
        return str(self.wait_event("log", lambda event: part in event["text"], deadline=deadline)["text"])


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _message(event: Event) -> JsMessage:
    message = WakuMessage(
        base64.b64decode(event["payload"]),
        event["contentTopic"],
        version=event["version"],
        timestamp=int(event["timestamp"]),
        meta=base64.b64decode(event["meta"]),
        ephemeral=event["ephemeral"],
    )
    return JsMessage(bytes.fromhex(event["hash"]), event["pubsubTopic"], message)
