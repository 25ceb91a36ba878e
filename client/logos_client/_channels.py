"""What a messaging client asks about reliable channels (SPEC.md 4.5).

await client.create_channel("room", "/chat/1/room/proto")
request_id = await client.send_to_channel("room", b"hello")
async for event in client:
    match event:
        case ChannelMessageReceived(sender_id=who, payload=payload): ...
        case ChannelMessageDelivered(request_id=done): ...
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Final

from ipc_schema.errors import ErrorCode
from ipc_schema.frames import MAX_BLOBS, Reply
from ipc_schema.mapi import channels as schema
from ipc_schema.mapi.channels import ChannelInfo, ChannelStatusReply, PendingChannelSend
from logos_client._app_requests import AppRequests
from logos_client._arguments import as_bytes, as_text
from logos_client._calls import read_reply
from logos_client._channel_hooks import Hook
from logos_client._connection import DEFAULT_TIMEOUT
from logos_client.exceptions import TooLargeError, UnknownMethodError, public_errors

_BLOB: Final = 1 << 20
_KEY: Final = 32


class ChannelMethods(AppRequests):
    """The part of a `MessagingClient` that is about reliable channels."""

    async def create_channel(
        self,
        channel_id: str,
        content_topic: str,
        *,
        sender_id: str | None = None,
        profile: str = "reference",
        keys: Iterable[bytes] = (),
        keep_keys: bool = False,
        parity: float = 0.0,
        hooks: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> str:
        """Create a reliable channel, or open one that was closed or is locked. Returns our sender id.

        `sender_id`: made up and kept when not given; unique in the channel. `profile`: the wire form that is
        written (`reference`, `raw`, `js`). `keys`: of 32 bytes, for the built-in encryption; the first
        encrypts, all decrypt. `keep_keys`: store them, so that the channel opens by itself after a restart.
        `parity`: parity segments per data segment, 0 to 1. `hooks`: instead of keys, the functions of
        `set_channel_encryption` encrypt; only with profile `reference`.

        A named app's channel outlives the connection; an ephemeral app's ends with it. Raises
        `ConflictError` when it is open already, `BadRequestError`.
        """
        given = tuple(as_bytes("key", key, _KEY) for key in keys)
        if not 0 <= parity <= 1:
            raise ValueError(f"parity: 0 to 1, not {parity}")
        if hooks and schema.FEATURE_CHANNEL_HOOKS not in self.features:
            what = "this Messaging API has no channels with hooks"
            raise UnknownMethodError(ErrorCode.UNKNOWN_METHOD, what)
        request = schema.ChannelCreateRequest(
            channel_id=as_text("channel id", channel_id),
            content_topic=as_text("content topic", content_topic),
            sender_id=None if sender_id is None else as_text("sender id", sender_id),
            profile=as_text("profile", profile),
            keys=given,
            keep_keys=keep_keys,
            parity_ppm=round(parity * 1_000_000),
            hooks=hooks,
        )
        reply = await self._ask(schema.CHANNEL_CREATE, request.to_body(), timeout=timeout)
        return read_reply(schema.ChannelCreateReply, reply).sender_id

    async def channel_exists(self, channel_id: str, *, timeout: float = DEFAULT_TIMEOUT) -> bool:
        """Whether the app has an open channel of that name."""
        reply = await self._ask_about(schema.CHANNEL_EXISTS, channel_id, timeout)
        return read_reply(schema.ChannelExistsReply, reply).exists

    async def channels(self, *, timeout: float = DEFAULT_TIMEOUT) -> tuple[ChannelInfo, ...]:
        """The app's channels, closed ones too."""
        reply = await self._ask(schema.CHANNEL_LIST, timeout=timeout, repeat=True)
        return read_reply(schema.ChannelListReply, reply).channels

    async def channel_status(
        self, channel_id: str, *, timeout: float = DEFAULT_TIMEOUT
    ) -> ChannelStatusReply:
        """What an open channel waits for, and how much it holds."""
        reply = await self._ask_about(schema.CHANNEL_STATUS, channel_id, timeout)
        return read_reply(ChannelStatusReply, reply)

    async def find_channel_send(
        self, channel_id: str, request_id: bytes, *, timeout: float = DEFAULT_TIMEOUT
    ) -> PendingChannelSend | None:
        """A send of a channel by its request id, also when it is final: `end` is then `delivered`, `failed`
        or `undelivered`. None: it was not accepted, or ended a day ago, after which ids are forgotten."""
        request = schema.ChannelFindSendRequest(
            channel_id=as_text("channel id", channel_id), request_id=as_bytes("request id", request_id, 16)
        )
        reply = await self._ask(schema.CHANNEL_FIND_SEND, request.to_body(), timeout=timeout, repeat=True)
        return read_reply(schema.ChannelFindSendReply, reply).send

    async def set_channel_encryption(self, channel_id: str, encrypt: Hook, decrypt: Hook) -> None:
        """Encrypt a channel created with `hooks` by functions of the app, which run here, in its process.

        Both take and return bytes: one segment of a payload, as the reference's hooks do, so that its apps
        take part. They run between other events, so they should be quick. Set them before events are asked
        for; whether the channel exists does not matter. When `encrypt` raises, the send fails with
        `BadRequestError` (`encryption failed: …`), and nothing is sent. A segment at which `decrypt` raises
        comes as `ChannelMessageLost`. Without hooks the app gets `ChannelSegmentReceived`, and can neither
        send nor read.
        """
        self._hooks.set(as_text("channel id", channel_id), encrypt, decrypt)

    async def clear_channel_encryption(self, channel_id: str) -> None:
        """Use the channel's hooks no more. Raises `BadRequestError` where there are none."""
        with public_errors():
            self._hooks.clear(as_text("channel id", channel_id))

    async def close_channel(self, channel_id: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Stop to receive and send. A named app's stored state stays for the next `create_channel`."""
        await self._ask_about(schema.CHANNEL_CLOSE, channel_id, timeout)

    async def forget_channel(self, channel_id: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Close a channel and delete all that is stored of it."""
        await self._ask_about(schema.CHANNEL_FORGET, channel_id, timeout)

    async def send_to_channel(
        self,
        channel_id: str,
        payload: bytes | bytearray | memoryview,
        *,
        ephemeral: bool = False,
        request_id: bytes | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> bytes:
        """Send a payload of any size up to some 25 MB. Returns its request id (16 bytes) once it is accepted.

        `ChannelMessageSent` follows, and one of `ChannelMessageDelivered`, `ChannelMessageError`,
        `ChannelDeliveryError` is its end. The request id is the idempotency key within the channel, as in
        `MessagingClient.send`. `ephemeral`: do not have stores keep it.

        Raises `BadRequestError` (`unknown channel: …`, `empty payload`, `segmentation failed: …`),
        `BusyError`, `ConflictError` (the id was used for another payload), `TooLargeError`.
        """
        name = as_text("channel id", channel_id)
        identity = os.urandom(16) if request_id is None else as_bytes("request id", request_id, 16)
        data = as_bytes("payload", payload)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        sealed: schema.SealedSegments | None = None
        if name in self._hooks:
            data, sealed = await self._seal(name, data, timeout)
        request = schema.ChannelSendRequest(
            channel_id=name, request_id=identity, ephemeral=ephemeral, sealed=sealed
        )
        remaining = max(0.0, deadline - loop.time())
        await self._ask(
            schema.CHANNEL_SEND, request.to_body(), self._blobs(data), timeout=remaining, repeat=True
        )
        return identity

    async def _seal(
        self, channel_id: str, payload: bytes, timeout: float
    ) -> tuple[bytes, schema.SealedSegments]:
        """Have the payload split there, and encrypt its segments here."""
        body = schema.ChannelRequest(channel_id=channel_id).to_body()
        reply = await self._ask(
            schema.CHANNEL_SPLIT, body, self._blobs(payload), timeout=timeout, repeat=True
        )
        split = read_reply(schema.ChannelSplitReply, reply)
        data = b"".join(reply.blobs)
        with public_errors():
            segments = self._hooks.seal(
                channel_id,
                [data[start:end] for start, end in pairwise(accumulate(split.sizes, initial=0))],
            )
        sealed = schema.SealedSegments(
            sizes=tuple(map(len, segments)), needed=split.needed, digest=sha256(payload).digest()
        )
        return b"".join(segments), sealed

    def _blobs(self, data: bytes) -> list[bytes]:
        if len(data) > _BLOB * MAX_BLOBS:
            raise TooLargeError(ErrorCode.TOO_LARGE, f"{len(data)} bytes, at most {_BLOB * MAX_BLOBS}")
        size = min(_BLOB, self.limits.blob_bytes)
        return [data[start : start + size] for start in range(0, len(data), size)]

    async def _ask_about(self, method: str, channel_id: str, timeout: float) -> Reply:
        body = schema.ChannelRequest(channel_id=as_text("channel id", channel_id)).to_body()
        return await self._ask(method, body, timeout=timeout, repeat=True)
