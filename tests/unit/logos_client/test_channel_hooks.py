"""Encryption of channels in the app's own hands: hooks that run in the client, segment by segment."""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.mapi.channels import (
    CHANNEL_CREATE,
    CHANNEL_OPENED,
    CHANNEL_SEND,
    CHANNEL_SPLIT,
    ChannelOpenedRequest,
    ChannelSendReply,
    ChannelSendRequest,
    ChannelSplitReply,
)
from ipc_schema.mapi.events import AppEventKind
from logos_client.events import ChannelMessageReceived, ChannelSegmentReceived
from logos_client.exceptions import BadRequestError, BusyError, DeadlineError, UnknownMethodError
from tests.unit.logos_client.mapi import App, MiniMapi
from tests.unit.logos_client.server import Answer
from tests.unit.logos_client.support import both_loops
from tests.unit.logos_client.test_messaging import connected


def seal(data: bytes) -> bytes:
    return os.urandom(4) + data[::-1]


def unseal(data: bytes) -> bytes:
    if len(data) < 4:
        raise ValueError("too short")
    return data[4:][::-1]


def refuse(data: bytes) -> bytes:
    raise ValueError(f"no key for {len(data)} bytes")


class Segments:
    """What a server with hooks does: splits in halves, takes sealed sends and opened segments."""

    def __init__(self, server: MiniMapi) -> None:
        self.sends: list[tuple[ChannelSendRequest, bytes]] = []
        self.opened: list[tuple[str, str | None, bytes]] = []
        self.busy = 0
        server.handlers[CHANNEL_SPLIT] = self._split
        server.handlers[CHANNEL_SEND] = self._send
        server.handlers[CHANNEL_OPENED] = self._opened

    def _split(self, _identity: bytes, request: Request) -> Answer:
        payload = b"".join(request.blobs)
        half = len(payload) // 2
        return ChannelSplitReply(sizes=(half, len(payload) - half), needed=2).to_body(), [payload]

    def _send(self, _identity: bytes, request: Request) -> Answer:
        body = ChannelSendRequest.from_body(request.body)
        self.sends.append((body, b"".join(request.blobs)))
        if self.busy:
            self.busy -= 1
            raise IpcError(ErrorCode.BUSY, "later")
        return ChannelSendReply(request_id=body.request_id).to_body()

    def _opened(self, _identity: bytes, request: Request) -> Answer:
        body = ChannelOpenedRequest.from_body(request.body)
        if self.busy:
            self.busy -= 1
            raise IpcError(ErrorCode.BUSY, "later")
        self.opened.append((body.message_id, body.error, b"".join(request.blobs)))
        return {}

    def opened_in(self, index: int) -> list[bytes]:
        """The segments of a send, decrypted."""
        body, data = self.sends[index]
        assert body.sealed is not None
        first = body.sealed.sizes[0]
        assert sum(body.sealed.sizes) == len(data)
        return [unseal(data[:first]), unseal(data[first:])]


def segment(server: MiniMapi, app: App, message_id: str, payload: bytes) -> None:
    kind = AppEventKind.CHANNEL_SEGMENT_RECEIVED
    server.emit(app, kind, "room", "bob", message_id, payload=payload)


@both_loops()
async def test_each_segment_is_sealed_in_the_client() -> None:
    async with connected() as (server, client, _app):
        segments = Segments(server)
        await client.set_channel_encryption("room", seal, unseal)
        await client.send_to_channel("room", b"first second")
        assert segments.opened_in(0) == [b"first ", b"second"]
        sealed = segments.sends[0][0].sealed
        assert sealed is not None
        assert (sealed.needed, sealed.digest) == (2, sha256(b"first second").digest())
        await client.clear_channel_encryption("room")
        await client.send_to_channel("room", b"plain")  # for a server that refuses it in a channel with hooks
        assert segments.sends[1][0].sealed is None
        with pytest.raises(BadRequestError, match="no encryption registered for channel: room"):
            await client.clear_channel_encryption("room")


@both_loops()
async def test_segments_are_opened_and_given_back_in_order_unseen_by_the_app() -> None:
    async with connected() as (server, client, app):
        segments = Segments(server)
        segment(server, app, "a", seal(b"early"))  # it may come before the app has set its hooks
        await client.set_channel_encryption("room", seal, unseal)
        segment(server, app, "b", b"x")
        segment(server, app, "c", seal(b"late"))
        kind = AppEventKind.CHANNEL_MESSAGE_RECEIVED
        server.emit(app, kind, "room", "bob", "a", 7, payload=b"earlylate")
        event = await client.next_event(5)
        assert isinstance(event, ChannelMessageReceived)
        assert (event.payload, event.seq) == (b"earlylate", 4)
        assert segments.opened == [("a", None, b"early"), ("b", "too short", b""), ("c", None, b"late")]


@both_loops()
async def test_a_segment_that_is_not_given_back_is_not_acknowledged() -> None:
    async with connected() as (server, client, app):
        segments = Segments(server)
        await client.set_channel_encryption("room", seal, unseal)
        segments.busy = 1_000_000
        segment(server, app, "a", seal(b"secret"))
        with pytest.raises(DeadlineError):
            await client.next_event(0.3)
        await client.ack()
        assert (app.acked, segments.opened) == (0, [])
        segments.busy = 0
        segment(server, app, "b", seal(b"more"))
        server.emit(app, AppEventKind.CHANNEL_SYNC, "room", "synced", 0)
        await client.next_event(5)
        # A request that was under way when the wait was cancelled may have been taken, too.
        assert list(dict.fromkeys(name for name, _, _ in segments.opened)) == ["a", "b"]


@both_loops()
async def test_callbacks_do_not_see_them_either() -> None:
    async with connected() as (server, client, app):
        segments = Segments(server)
        await client.set_channel_encryption("room", seal, unseal)
        seen: asyncio.Queue[str] = asyncio.Queue()
        client.on(ChannelSegmentReceived, lambda event: seen.put_nowait(event.message_id))
        client.on(ChannelMessageReceived, lambda event: seen.put_nowait(event.message_id))
        segment(server, app, "a", seal(b"secret"))
        kind = AppEventKind.CHANNEL_MESSAGE_RECEIVED
        server.emit(app, kind, "room", "bob", "whole", 7, payload=b"secret")
        assert await asyncio.wait_for(seen.get(), 5) == "whole"
        assert segments.opened == [("a", None, b"secret")]


@both_loops()
async def test_without_hooks_the_app_gets_the_segment() -> None:
    async with connected() as (server, client, app):
        segment(server, app, "a", b"sealed")
        event = await client.next_event(5)
        assert isinstance(event, ChannelSegmentReceived)
        assert (event.message_id, event.payload) == ("a", b"sealed")


@both_loops()
async def test_a_hook_that_fails_fails_the_send_and_nothing_goes_out() -> None:
    async with connected() as (server, client, _app):
        segments = Segments(server)
        for hook, text in (
            (refuse, "no key for 3 bytes"),
            (lambda _: None, "a hook returns bytes, not NoneType"),
            (len, "a hook returns bytes, not int"),
        ):
            await client.set_channel_encryption("room", hook, refuse)  # type: ignore[arg-type]
            with pytest.raises(BadRequestError, match=f"encryption failed: {text}"):
                await client.send_to_channel("room", b"secret")
        assert segments.sends == []


@both_loops()
async def test_a_repeat_is_known_by_the_plain_payload() -> None:
    async with connected() as (server, client, _app):
        segments = Segments(server)
        segments.busy = 1
        await client.set_channel_encryption("room", seal, unseal)
        with pytest.raises(BusyError):
            await client.send_to_channel("room", b"secret", request_id=bytes(16))
        await client.send_to_channel("room", b"secret", request_id=bytes(16))
        (first, one), (second, two) = segments.sends
        assert one != two
        assert first.sealed == second.sealed


@both_loops()
async def test_a_server_without_hooks_creates_no_plain_channel() -> None:
    async with connected() as (server, client, _app):
        asked: list[bytes] = []
        server.handlers[CHANNEL_CREATE] = lambda identity, _request: asked.append(identity)
        with pytest.raises(UnknownMethodError, match="no channels with hooks"):
            await client.create_channel("room", "/a/1/b/c", hooks=True)
        assert not asked
