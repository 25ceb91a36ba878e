"""Metadata (66/WAKU2-METADATA): exchange cluster and shards, and disconnect peers of other clusters.

Request and response are the same message: 1 `cluster_id` uint32, 2 `shards` uint32 unpacked, 3 `shards`
packed. Implementations disagree about the shards field (js-waku cannot read a packed field 2, go-waku writes
only field 3), so we write both and read all forms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from ipc_schema.protobuf import ProtobufError, fields, packed_varints, put_bytes, put_varint
from kernel_proc.p2p import varint
from kernel_proc.p2p.api import EndCause, Host, PeerConnection, PeerIdentity, PeerIdText, Stream
from kernel_proc.protocols.framing import MessageReader, StreamFrameError, encode_frame
from kernel_proc.protocols.requests import CallError, call

log = logging.getLogger(__name__)

PROTOCOL: Final = "/vac/waku/metadata/1.0.0"
MAX_MESSAGE: Final = 16 * 1024
MAX_SHARDS: Final = 1024
"""More shards than a cluster can have (51/WAKU2-RELAY-SHARDING); a longer list is rejected."""
UINT32: Final = 2**32 - 1


class MetadataError(ValueError):
    """The bytes are not a metadata message."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """A peer's cluster and shards. `cluster` is None if the message omits it."""

    cluster: int | None
    shards: tuple[int, ...]


def encode(metadata: Metadata) -> bytes:
    """Encode a message, with shards unpacked in field 2 and packed in field 3."""
    out = bytearray()
    put_varint(out, 1, metadata.cluster)
    for shard in metadata.shards:
        put_varint(out, 2, shard)
    if metadata.shards:
        put_bytes(out, 3, b"".join(map(varint.encode, metadata.shards)))
    return bytes(out)


def decode(body: bytes) -> Metadata:
    """Decode a message. Field 3 takes precedence over field 2. Raise MetadataError."""
    cluster: int | None = None
    deprecated: dict[int, None] = {}
    shards: dict[int, None] = {}
    try:
        for number, value in fields(body):
            if number == 1 and isinstance(value, int):
                cluster = value & UINT32
            elif number in (2, 3):
                into = shards if number == 3 else deprecated
                for shard in (value,) if isinstance(value, int) else packed_varints(value):
                    into[shard & UINT32] = None
    except ProtobufError as error:
        raise MetadataError(str(error)) from None
    found = shards or deprecated
    if len(found) > MAX_SHARDS:
        raise MetadataError(f"{len(found)} shards")
    return Metadata(cluster, tuple(found))


def _ignore(_peer_id: PeerIdText, _what: object) -> None:
    """No-op callback."""


class MetadataProtocol:
    """Both sides of the protocol on one host.

    Every new connection is queried at once. A peer that is in another cluster, reports none, does not support
    the protocol or does not answer within `timeout` seconds is disconnected.

    A request is answered only after identify has completed and the connection is `settle` seconds old, at the
    latest after `patience` seconds: nwaku discards shards that arrive before it has added the sender to its
    peer store.

    `shards` returns our current shards; `learned(peer id, metadata)` is called with the metadata of peers in
    our cluster, `other_network(peer id, why)` for a peer in another one or in none.
    """

    def __init__(
        self,
        host: Host,
        *,
        cluster: int,
        shards: Callable[[], Iterable[int]],
        learned: Callable[[PeerIdText, Metadata], None] = _ignore,
        other_network: Callable[[PeerIdText, str], None] = _ignore,
        timeout: float = 10.0,
        settle: float = 0.4,
        patience: float = 2.0,
    ) -> None:
        self._host = host
        self._cluster = cluster
        self._shards = shards
        self._learned = learned
        self._other_network = other_network
        self._timeout = timeout
        self._settle = settle
        self._patience = patience
        self._nursery: trio.Nursery | None = None
        self._known: dict[PeerIdText, Metadata] = {}
        self._since: dict[PeerIdText, float] = {}
        self._identified: dict[PeerIdText, trio.Event] = {}
        self._counters = dict.fromkeys(
            ("answered", "asked", "bad_messages", "failed", "other_cluster", "stalled"), 0
        )
        # js-waku pre-opens a stream on every peer update and may use any of them: allow a burst.
        host.set_stream_handler(PROTOCOL, self._serve, max_per_peer=16)
        host.add_listener(self)

    @property
    def local(self) -> Metadata:
        return Metadata(self._cluster, tuple(sorted(set(self._shards()))))

    def peer_shards(self, peer_id: PeerIdText) -> tuple[int, ...] | None:
        """Return the shards a connected peer reported, None if it has not."""
        known = self._known.get(peer_id)
        return None if known is None else known.shards

    def counters(self) -> dict[str, int]:
        """Return monotonic counters: answered, asked, bad_messages, failed, other_cluster, and stalled
        (inbound requests that timed out)."""
        return dict(self._counters)

    async def run(self) -> None:
        """Query peers as they connect. Run until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for connection in self._host.connections():
                    self.peer_connected(connection)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # -- host events ------------------------------------------

    def peer_connected(self, connection: PeerConnection) -> None:
        """Query the peer, once per connection."""
        peer_id = connection.peer_id
        self._since.setdefault(peer_id, connection.since)
        self._identified.setdefault(peer_id, trio.Event())
        if self._nursery is not None:
            self._nursery.start_soon(self._check, peer_id)

    def peer_identified(self, identity: PeerIdentity) -> None:
        """Release responses that wait for the peer's identity."""
        if (event := self._identified.get(identity.peer_id)) is not None:
            event.set()

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        self._known.pop(peer_id, None)
        self._since.pop(peer_id, None)
        if (event := self._identified.pop(peer_id, None)) is not None:
            event.set()

    # -- client side ------------------------------------------

    # As in nwaku, there is no exemption for cluster 0: no metadata means no connection.
    async def _check(self, peer_id: PeerIdText) -> None:
        self._counters["asked"] += 1
        try:
            metadata = await call(
                self._host,
                peer_id,
                (PROTOCOL,),
                encode(self.local),
                decode=decode,
                max_response=MAX_MESSAGE,
                deadline=self._timeout,
            )
        except CallError as error:
            if self._host.is_connected(peer_id):
                self._counters["failed"] += 1
                log.debug("metadata request to %s failed: %s", peer_id, error)
                await self._host.disconnect(peer_id, f"metadata: {error}")
            return
        if (foreign := self._foreign(metadata)) is None:
            self._learn(peer_id, metadata)
            return
        self._counters["other_cluster"] += 1
        self._other_network(peer_id, foreign)
        await self._host.disconnect(peer_id, foreign)

    def _foreign(self, metadata: Metadata) -> str | None:
        """Return why a peer with this metadata is in another network; None if it is in ours."""
        if metadata.cluster == self._cluster:
            return None
        named = "reports no cluster" if metadata.cluster is None else f"is in cluster {metadata.cluster}"
        return f"metadata: peer {named}, ours is {self._cluster}"

    def _learn(self, peer_id: PeerIdText, metadata: Metadata) -> None:
        if metadata.cluster == self._cluster and peer_id in self._since:
            self._known[peer_id] = metadata
            self._learned(peer_id, metadata)

    # -- service side -----------------------------------------

    async def _serve(self, stream: Stream) -> None:
        reader = MessageReader(stream, MAX_MESSAGE)
        try:
            # No deadline before the first byte: js-waku opens its stream long before using it. The host
            # bounds the number of streams.
            if not await reader.started():
                return
            with trio.move_on_after(self._timeout) as scope:
                body = await reader.read()
                if body is None:
                    return
                metadata = decode(body)
                # A request carries the sender's metadata just as a response does. A peer of another network
                # may disconnect as soon as it has our response, before we have read its own.
                if (foreign := self._foreign(metadata)) is not None:
                    self._other_network(stream.peer_id, foreign)
                await self._until_settled(stream.peer_id)
                await stream.write(encode_frame(encode(self.local)))
                self._counters["answered"] += 1
                if stream.peer_id not in self._known:
                    self._learn(stream.peer_id, metadata)
            if scope.cancelled_caught:
                self._counters["stalled"] += 1
                await stream.reset()
        except (StreamFrameError, MetadataError) as error:
            self._counters["bad_messages"] += 1
            log.debug("malformed metadata request from %s: %s", stream.peer_id, error)
            await stream.reset()

    async def _until_settled(self, peer_id: PeerIdText) -> None:
        with trio.move_on_after(self._patience):
            event = self._identified.get(peer_id)
            if event is not None and self._host.identity(peer_id) is None:
                await event.wait()
            await trio.sleep_until(self._since.get(peer_id, 0.0) + self._settle)
