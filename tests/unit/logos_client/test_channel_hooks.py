"""Encryption of channels in the app's own hands: hooks that run in the client."""

from __future__ import annotations

import os

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.mapi.channels import CHANNEL_SEND, ChannelSendReply, ChannelSendRequest
from ipc_schema.mapi.events import AppEventKind
from logos_client.events import ChannelMessageLost, ChannelMessageReceived
from logos_client.exceptions import BadRequestError, BusyError
from tests.unit.logos_client.mapi import App, MiniMapi
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


def receive(server: MiniMapi, app: App, payload: bytes) -> None:
    server.emit(app, AppEventKind.CHANNEL_MESSAGE_RECEIVED, "room", "bob", "ab", 7, payload=payload)


@both_loops()
async def test_payloads_are_sealed_and_opened_in_the_client() -> None:
    sent: list[bytes] = []

    def accept(_identity: bytes, request: Request) -> dict[str, object]:
        sent.append(b"".join(request.blobs))
        body = ChannelSendRequest.from_body(request.body)
        return ChannelSendReply(request_id=body.request_id).to_body()

    async with connected() as (server, client, app):
        server.handlers[CHANNEL_SEND] = accept
        receive(server, app, seal(b"early"))  # it may come before the app has set its hooks
        await client.set_channel_encryption("room", seal, unseal)
        assert (await client.next_event(5)).to_dict()["payload"] == b"early".hex()
        await client.send_to_channel("room", b"secret")
        assert b"secret" not in sent[0]
        assert unseal(sent[0]) == b"secret"
        receive(server, app, b"x")
        receive(server, app, seal(b"good"))
        lost = await client.next_event(5)
        assert isinstance(lost, ChannelMessageLost)
        assert (lost.reason, lost.message_ids) == ("decryption failed: too short", ("ab",))
        good = await client.next_event(5)
        assert isinstance(good, ChannelMessageReceived)
        assert (good.payload, good.seq) == (b"good", 3)
        await client.clear_channel_encryption("room")
        await client.send_to_channel("room", b"plain")
        assert sent[1] == b"plain"
        with pytest.raises(BadRequestError, match="no encryption registered for channel: room"):
            await client.clear_channel_encryption("room")


@both_loops()
async def test_a_hook_that_fails_fails_the_send_and_nothing_goes_out() -> None:
    async with connected() as (server, client, _app):
        asked: list[bytes] = []
        server.handlers[CHANNEL_SEND] = lambda identity, _request: asked.append(identity)
        await client.set_channel_encryption("room", refuse, refuse)
        with pytest.raises(BadRequestError, match="encryption failed: no key for 6 bytes"):
            await client.send_to_channel("room", b"secret")
        assert not asked


@both_loops()
async def test_a_send_repeated_without_an_answer_is_the_same_sealed_payload() -> None:
    sent: list[bytes] = []

    def busy_once(_identity: bytes, request: Request) -> dict[str, object]:
        sent.append(b"".join(request.blobs))
        if len(sent) == 1:
            raise IpcError(ErrorCode.BUSY, "later")
        return ChannelSendReply(request_id=ChannelSendRequest.from_body(request.body).request_id).to_body()

    async with connected() as (server, client, _app):
        server.handlers[CHANNEL_SEND] = busy_once
        await client.set_channel_encryption("room", seal, unseal)
        with pytest.raises(BusyError):
            await client.send_to_channel("room", b"secret", request_id=bytes(16))
        await client.send_to_channel("room", b"secret", request_id=bytes(16))
        assert sent[0] == sent[1]
