"""Payloads that apps send, and segments that they encrypt or decrypt themselves (SPEC.md 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.channels import (
    ChannelOpenedRequest,
    ChannelSendRequest,
    ChannelSplitReply,
    PendingChannelSend,
    SealedSegments,
)
from mapi_proc.channels.channel import fingerprint
from mapi_proc.channels.events import EndedRequest, StoredRequest
from mapi_proc.channels.host import ChannelHost
from mapi_proc.channels.known import KnownChannel
from mapi_proc.database import Database
from mapi_proc.database.channels import find_channel_request, find_channel_send
from mapi_proc.disk import Disk, refusals
from mapi_proc.network import CurrentNetwork
from mapi_proc.write_batch import Turn

_BLOB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ChannelSending:
    """An app's requests to one open channel."""

    database: Database
    turn: Turn
    disk: Disk
    network: CurrentNetwork

    async def send(
        self, channel: KnownChannel, host: ChannelHost, request: ChannelSendRequest, blobs: Sequence[bytes]
    ) -> bool:
        """Accept a send and wait until it is on disk. Return True for a repeat. Raises IpcError."""
        if self.network().info.rln_required:
            raise IpcError(ErrorCode.RLN_REQUIRED, "this network needs an RLN proof with each message")
        payload = blobs[0] if len(blobs) == 1 else b"".join(blobs)
        if channel.app.durable:
            self.disk.check()
        mark = _mark(request, payload)
        if await self._repeated(channel, host, request.request_id, mark):
            return True
        if host.closed:
            raise IpcError(ErrorCode.BAD_REQUEST, "channel closed mid-send")
        repeated = _put(host, request, payload, mark)
        if channel.app.durable:
            self.turn.batch.durable = True  # accepted survives the loss of the host
            await self.disk.stored(self.turn)
        return repeated

    async def find(self, channel: KnownChannel, request_id: bytes) -> PendingChannelSend | None:
        """Return the send of this id, final or not; None if it is unknown, or forgotten. Raises IpcError."""
        host = channel.host
        if host is not None and (pending := host.core.requests.find(request_id)) is not None:
            return PendingChannelSend(request_id=request_id, sent=pending.sent)
        if not channel.app.durable:
            ended = None if host is None else host.recent.get(request_id)
            return _ended(request_id, *ended[1:]) if isinstance(ended, EndedRequest) else None
        self.disk.check()
        await self.disk.stored(self.turn)  # it may have ended in this turn
        with refusals():
            found = await self.database.read(find_channel_send, channel.record.channel, request_id)
        return None if found is None else _ended(request_id, *found)

    async def _repeated(
        self, channel: KnownChannel, host: ChannelHost, request_id: bytes, mark: bytes
    ) -> bool:
        """Return whether the send was accepted before, and may be final. Raises `conflict`."""
        if channel.app.durable:
            known = await self.database.read(find_channel_request, channel.record.channel, request_id)
        else:
            recent = host.recent.get(request_id)
            known = None if recent is None else recent.fingerprint
        if known is not None and known != mark:
            raise IpcError(ErrorCode.CONFLICT, "this request id was used for another message")
        return known is not None

    def split(self, host: ChannelHost, blobs: Sequence[bytes]) -> tuple[ChannelSplitReply, list[bytes]]:
        """Return the segments of a payload for the app to encrypt: sizes, and blobs. Raises IpcError."""
        segments, needed = host.core.split(b"".join(blobs))
        data = b"".join(segments)
        reply = ChannelSplitReply(sizes=tuple(map(len, segments)), needed=needed)
        return reply, [data[start : start + _BLOB] for start in range(0, len(data), _BLOB)]

    async def opened(
        self, channel: KnownChannel, host: ChannelHost, request: ChannelOpenedRequest, blobs: Sequence[bytes]
    ) -> None:
        """Take a decrypted segment and wait until its effects are on disk. Raises IpcError."""
        content = None if request.error is not None else b"".join(blobs)
        host.opened(request.message_id, content, request.error or "")
        if channel.app.durable:
            await self.disk.stored(self.turn)


def _mark(request: ChannelSendRequest, payload: bytes) -> bytes:
    """Return what a repeat is recognised by. An app's encryption differs each time, so there it is the digest
    of the plain payload."""
    if request.sealed is None:
        return fingerprint(payload, request.ephemeral)
    return sha256(b"sealed:%d:" % request.ephemeral + request.sealed.digest).digest()


def _ended(request_id: bytes, sent: bool, end: str, detail: str) -> PendingChannelSend:
    return PendingChannelSend(request_id=request_id, sent=sent, end=end, detail=detail)


def _put(host: ChannelHost, request: ChannelSendRequest, payload: bytes, mark: bytes) -> bool:
    sealed = request.sealed
    if sealed is None:
        return host.send(request.request_id, payload, request.ephemeral)
    stored = StoredRequest(request.request_id, (), sealed.needed, request.ephemeral, False, mark)
    return host.send_sealed(stored, _cut(payload, sealed))


def _cut(data: bytes, sealed: SealedSegments) -> list[bytes]:
    ends = list(accumulate(sealed.sizes, initial=0))
    if ends[-1] != len(data):
        raise IpcError(ErrorCode.BAD_REQUEST, f"sizes of {ends[-1]} bytes in all, blobs of {len(data)}")
    return [data[start:end] for start, end in pairwise(ends)]
