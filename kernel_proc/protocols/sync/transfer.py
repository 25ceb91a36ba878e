"""Transfer: give a peer the messages that it lacks, and take those that we asked for."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message, message_hash
from ipc_schema.protobuf import ProtobufError
from kernel_proc.archive.api import MAX_TIMESTAMP_DISTANCE_NS, ArchiveBusy, HistoryPage, HistoryQuery
from kernel_proc.archive.service import MessageArchive
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Host, PeerIdText, Stream
from kernel_proc.protocols.framing import MessageReader, StreamFrameError, encode_frame
from kernel_proc.protocols.sync.invitations import Grants, TransferVerdict
from kernel_proc.protocols.sync.keys import SyncKey, hash_of, make_key
from kernel_proc.protocols.sync.stock import SyncStock
from kernel_proc.protocols.sync.transfer_codec import (
    MAX_NWAKU_TRANSFER,
    TRANSFER_PROTOCOL,
    decode_transfer,
    encode_transfer,
)
from logos_process.logs import fields

log = logging.getLogger(__name__)

CHUNK: Final = 50
CHUNK_BYTES: Final = 8 << 20
"""Messages read from the archive at a time, and most bytes of them."""
WRITE_BYTES: Final = 64_000
ENTRY_BYTES: Final = 1024
"""Allowance for the topic and tags around a message."""
MAX_REFUSED: Final = 100
"""Refused messages of a stream before it is reset."""
IDLE_SECONDS: Final = 60.0
"""Between two messages of a stream."""
OPEN_SECONDS: Final = 10.0
BUSY_PAUSE: Final = 0.2
BUSY_TRIES: Final = 50
STREAMS: Final = 4
"""Streams of one peer: large messages come on one each."""


class MessageTransfer:
    """Both directions. `clock`: the wall clock in ns; `is_signed`: whether a message is signed as its shard
    demands."""

    def __init__(
        self,
        host: Host,
        archive: MessageArchive,
        stock: SyncStock,
        grants: Grants,
        registry: Registry,
        *,
        is_signed: Callable[[str, WakuMessage], bool],
        max_message_size: int,
        clock: Callable[[], int],
    ) -> None:
        self._host = host
        self._archive = archive
        self._stock = stock
        self._grants = grants
        self._registry = registry
        self._is_signed = is_signed
        self._max_frame = max_message_size + ENTRY_BYTES
        self._chunk = max(1, min(CHUNK, CHUNK_BYTES // max_message_size))
        self._clock = clock
        self._bytes = {
            direction: registry.counter("total_bytes_exchanged", protocol="transfer", direction=direction)
            for direction in ("receive", "sent")
        }
        self._messages = {
            direction: registry.counter("total_transfer_messages_exchanged", direction=direction)
            for direction in ("receive", "sent")
        }

    def mount(self) -> None:
        """Advertise and serve the protocol."""
        self._host.set_stream_handler(TRANSFER_PROTOCOL, self._receive, max_per_peer=STREAMS)

    # --- giving ---

    async def send(self, peer_id: PeerIdText, keys: Sequence[SyncKey]) -> int:
        """Send messages to a peer. Return how many. Raise `P2pError` or `ArchiveError`."""
        sent = 0
        large: list[bytes] = []
        if keys:
            async with self._stream(peer_id) as stream:
                for at in range(0, len(keys), self._chunk):
                    page = await self._read(tuple(map(hash_of, keys[at : at + self._chunk])))
                    sent += await self._send_page(stream, page, large)
        for digest in large:
            # nwaku resets the stream on a frame that is too long for it: no other may be lost with it.
            async with self._stream(peer_id) as stream:
                sent += await self._send_page(stream, await self._read((digest,)), None)
        return sent

    async def _send_page(self, stream: Stream, page: HistoryPage, large: list[bytes] | None) -> int:
        """Send the messages of a page, except those that are left for later in `large`."""
        out, sent = bytearray(), 0
        for found in page.messages:
            assert found.pubsub_topic is not None
            assert found.data is not None
            frame = encode_transfer(found.pubsub_topic, found.data)
            if large is not None and len(frame) > MAX_NWAKU_TRANSFER:
                large.append(found.message_hash)
                continue
            out += encode_frame(frame)
            sent += 1
            if len(out) >= WRITE_BYTES:
                await self._write(stream, bytes(out))
                out.clear()
        if out:
            await self._write(stream, bytes(out))
        self._messages["sent"].add(sent)
        return sent

    async def _read(self, hashes: tuple[bytes, ...]) -> HistoryPage:
        query = HistoryQuery(hashes=hashes, include_data=True, limit=len(hashes), forward=True)
        for _ in range(BUSY_TRIES):
            with suppress(ArchiveBusy):  # queries of clients come first
                return await self._archive.query(query)
            await trio.sleep(BUSY_PAUSE)
        return await self._archive.query(query)

    async def _write(self, stream: Stream, data: bytes) -> None:
        await stream.write(data)
        self._bytes["sent"].add(len(data))

    @asynccontextmanager
    async def _stream(self, peer_id: PeerIdText) -> AsyncIterator[Stream]:
        stream = await self._host.open_stream(peer_id, (TRANSFER_PROTOCOL,), deadline=OPEN_SECONDS)
        try:
            yield stream
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        await stream.close()

    # --- taking ---

    async def _receive(self, stream: Stream) -> None:
        grant = self._grants.find(stream.peer_id)
        if grant is None:
            await self._receive_from(stream)
            return
        grant.streams += 1
        try:
            await self._receive_from(stream)
        finally:
            grant.stream_ended()

    async def _receive_from(self, stream: Stream) -> None:
        reader = MessageReader(stream, self._max_frame)
        peer_id, refused = stream.peer_id, 0
        while refused <= MAX_REFUSED:
            frame: bytes | None = None
            try:
                with trio.move_on_after(IDLE_SECONDS) as scope:
                    frame = await reader.read()
            except StreamFrameError as error:
                self._refuse(peer_id, "malformed", str(error))
                break
            if frame is None:
                if scope.cancelled_caught:
                    break
                return  # its end
            self._bytes["receive"].add(len(frame))
            why = await self._take(peer_id, frame)
            if why == TransferVerdict.OVER_LIMIT:
                break  # what is missing is found again by the next session
            refused += why != TransferVerdict.TAKEN
        await stream.reset()

    async def _take(self, peer_id: PeerIdText, frame: bytes) -> str:
        """Archive a message that we asked for. Return `taken`, or why it was refused."""
        grant = self._grants.find(peer_id)
        if grant is None:
            return self._refuse(peer_id, TransferVerdict.UNASKED)
        try:
            topic, data = decode_transfer(frame)
            message = decode_message(data)
        except (ProtobufError, MessageDecodeError) as error:
            return self._refuse(peer_id, "malformed", str(error))
        # 14/WAKU2-MESSAGE: the hash is recomputed, so that only the very message that was listed is taken.
        digest = message_hash(topic, message)
        why = self._reason_against(topic, message)
        if why is None:
            verdict = grant.judge(message.timestamp, digest, len(frame))
            why = None if verdict is TransferVerdict.TAKEN else verdict
        if why is not None:
            return self._refuse(peer_id, why)
        self._messages["receive"].add()
        try:
            # Relay may have been faster than the transfer.
            if self._stock.holds(topic, make_key(message.timestamp, digest)):
                self._count("duplicate")
            elif not await self._archive.insert(topic, message, digest):
                return self._refuse(peer_id, "not_archived")
        finally:
            grant.settle()
        return TransferVerdict.TAKEN

    def _reason_against(self, topic: str, message: WakuMessage) -> str | None:
        # 14/WAKU2-MESSAGE: ephemeral messages are not stored, so no honest store can have listed one.
        if message.ephemeral:
            return "ephemeral"
        if not self._stock.covers(topic):
            return "other_topic"
        if not self._stock.window().start <= message.timestamp <= self._clock() + MAX_TIMESTAMP_DISTANCE_NS:
            return "other_time"
        return None if self._is_signed(topic, message) else "unsigned"

    def _refuse(self, peer_id: PeerIdText, why: str, detail: str = "") -> str:
        self._count(why)
        log.debug("transferred message refused", extra=fields(peer=peer_id, reason=why, detail=detail))
        return why

    def _count(self, why: str) -> None:
        self._registry.counter("store_sync_transfers_refused", type=why).add()
