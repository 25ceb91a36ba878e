"""The DEALER that connects again by itself, against a server on a real ROUTER, on both loops."""

from __future__ import annotations

import asyncio
import sys

import pytest
import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.event_codec import encode_app_event, event_frames
from logos_client._connection import RequestConnection
from logos_client._connection_types import ConnectionSettings
from logos_client._dealer import ReconnectingDealer
from tests.unit.logos_client.server import ContractServer
from tests.unit.logos_client.support import both_loops, short_directory, until


@both_loops()
async def test_a_handler_that_raises_while_a_connection_is_lost_does_not_hide_the_loss() -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))

    def fail(_event: list[bytes]) -> None:
        raise ValueError("a fault of the handler")

    with short_directory() as directory:
        server = ContractServer(directory / "s")
        server.handlers["echo"] = lambda _identity, _request: None
        settings = ConnectionSettings(hello=lambda: {"kind": "tool", "protocol": [1, 1]}, on_event=fail)
        connection = RequestConnection(server.endpoint, settings)
        try:
            asked = asyncio.ensure_future(connection.request("echo", timeout=60))
            await until(lambda: server.methods() == ["hello", "echo"])
            (identity,) = server.known
            event = event_frames(encode_app_event(bytes(16), 1, 0, 7), b"")
            for _ in range(900):  # each fault ends a reading: many are left when the loss is noticed
                server.send(identity, event)
            server.stop()
            with pytest.raises(IpcError) as lost:
                await asked
            assert lost.value.code is ErrorCode.PEER_RESTARTED
            assert failures
        finally:
            await connection.close()
            server.close()


@both_loops()
async def test_a_handshake_of_a_connection_that_was_given_up_is_not_reported() -> None:
    with short_directory() as directory:
        server = ContractServer(directory / "s")
        states: list[str] = []
        dealer = ReconnectingDealer(
            server.endpoint, lambda: states.append("up"), lambda: states.append("down"), lambda _frames: None
        )
        try:
            await until(lambda: states == ["up"])
            # libzmq says when it is to wait for its next attempt, which may come late.
            for event in (zmq.EVENT_CONNECT_RETRIED, zmq.EVENT_HANDSHAKE_SUCCEEDED):
                dealer._noticed([int(event).to_bytes(2, sys.byteorder) + bytes(4), server.endpoint.encode()])
            assert states == ["up"]
            await until(lambda: states == ["up", "up"])
        finally:
            dealer.close()
            server.close()
