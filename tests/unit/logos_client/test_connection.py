"""RequestConnection against a server on a real ROUTER, on both loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply, Request, encode_reply
from ipc_schema.mapi.event_codec import encode_app_event, event_frames
from logos_client._connection import RequestConnection
from logos_client._connection_types import ConnectionSettings, ConnectionState
from tests.unit.logos_client.server import Answer, ContractServer
from tests.unit.logos_client.support import both_loops, short_directory, until

HELLO = {"kind": "tool", "protocol": [1, 1]}


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[ContractServer, RequestConnection]]:
    with short_directory() as directory:
        server = ContractServer(directory / "s", needs_hello=options.get("hello", HELLO) is not None)
        options.setdefault("hello", lambda: HELLO)
        connection = RequestConnection(server.endpoint, ConnectionSettings(**options))
        try:
            yield server, connection
        finally:
            await connection.close()
            server.close()


def echo(_identity: bytes, request: Request) -> Answer:
    return dict(request.body), list(request.blobs)


@both_loops()
async def test_hello_then_requests() -> None:
    greeted: list[Reply] = []
    async with served(on_hello=greeted.append) as (server, connection):
        server.handlers["echo"] = echo
        assert connection.state is ConnectionState.CONNECTING
        reply = await connection.request("echo", {"a": 1}, [b"blob", b""])
        assert (reply.body, reply.blobs) == ({"a": 1}, [b"blob", b""])
        assert connection.ready
        assert connection.instance == server.instance
        assert server.methods() == ["hello", "echo"]
        assert greeted[0].body["server"] == "test/1"


@both_loops()
async def test_a_control_socket_needs_no_hello() -> None:
    async with served(hello=None) as (server, connection):
        server.handlers["health"] = lambda _identity, _request: {"ready": True}
        assert (await connection.request("health")).body == {"ready": True}
        assert server.methods() == ["health"]


@both_loops()
async def test_a_server_that_comes_later() -> None:
    async with served() as (server, connection):
        server.stop()
        with pytest.raises(IpcError, match="no answer from") as failed:
            await connection.wait_ready(0.2)
        assert failed.value.code is ErrorCode.NOT_READY
        with pytest.raises(IpcError):
            await connection.request("echo", timeout=0.05)
        asyncio.get_running_loop().call_later(0.1, server.start)
        server.handlers["echo"] = echo
        assert (await connection.request("echo", {"late": True})).body == {"late": True}


@both_loops()
async def test_a_directory_without_a_node_is_told_from_a_server_that_is_silent() -> None:
    with short_directory() as directory:
        connection = RequestConnection(f"ipc://{directory}/none", ConnectionSettings(hello=lambda: HELLO))
        with pytest.raises(IpcError, match=r"within 0\.05 s \(connecting; there is no such socket\)"):
            await connection.wait_ready(0.05)
        await connection.close()


@both_loops()
async def test_a_directory_of_another_user_is_not_called_empty() -> None:
    user = os.geteuid()
    with short_directory() as directory:
        connection = RequestConnection(f"ipc://{directory}/none", ConnectionSettings(hello=lambda: HELLO))
        directory.chmod(0)
        if user == 0:  # who sees into every directory
            os.seteuid(65533)
        try:
            with pytest.raises(IpcError, match=r"within 0\.05 s \(connecting\)"):
                await connection.wait_ready(0.05)
        finally:
            if user == 0:
                os.seteuid(0)
            directory.chmod(0o700)
            await connection.close()


@both_loops()
async def test_concurrent_requests_are_distinguished_and_bounded_by_the_servers_limit() -> None:
    async with served() as (server, connection):
        server.limits["in_flight"] = 5
        under_way = most = 0

        def answer(identity: bytes, request: Request) -> None:
            nonlocal under_way
            under_way -= 1
            server.answer(identity, request, request.body)

        def hold(identity: bytes, request: Request) -> Answer:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            delay = 0.001 * (5 - len(server.requests) % 5)  # answered out of order
            asyncio.get_running_loop().call_later(delay, answer, identity, request)
            return None

        server.handlers["hold"] = hold
        await connection.wait_ready(5)
        replies = await asyncio.gather(*(connection.request("hold", {"n": n}) for n in range(100)))
        assert [reply.body["n"] for reply in replies] == list(range(100))
        assert most == 5


@both_loops()
async def test_an_error_of_the_server_is_raised() -> None:
    async with served() as (server, connection):

        def refuse(_identity: bytes, _request: Request) -> Answer:
            raise IpcError(ErrorCode.BUSY, "try later", retry_after_ms=20, detail={"why": "full"})

        server.handlers["refuse"] = refuse
        with pytest.raises(IpcError) as failed:
            await connection.request("refuse")
        error = failed.value
        assert (error.code, error.retriable, error.retry_after_ms) == (ErrorCode.BUSY, True, 20)
        assert error.detail == {"why": "full"}
        with pytest.raises(IpcError) as unknown:
            await connection.request("no.such")
        assert unknown.value.code is ErrorCode.UNKNOWN_METHOD


@both_loops()
async def test_the_time_limit_is_kept_and_sent_as_budget() -> None:
    async with served() as (server, connection):
        server.handlers["silent"] = lambda _identity, _request: None
        await connection.wait_ready(5)
        with pytest.raises(IpcError, match="no answer in time") as failed:
            await connection.request("silent", timeout=0.15)
        assert failed.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert 100 <= server.requests[-1].budget_ms <= 150
        # Its late reply is not taken for another's.
        identity = next(iter(server.known))
        server.answer(identity, server.requests[-1], {})
        await until(lambda: connection.counters.unmatched == 1)


@both_loops()
async def test_waiting_for_a_place_counts_against_the_time_limit() -> None:
    async with served() as (server, connection):
        server.limits["in_flight"] = 1
        server.handlers["silent"] = lambda _identity, _request: None
        server.handlers["echo"] = echo
        await connection.wait_ready(5)
        first = asyncio.create_task(connection.request("silent", timeout=0.4))
        await until(lambda: server.methods()[-1] == "silent")
        with pytest.raises(IpcError) as failed:
            await connection.request("echo", timeout=0.1)
        assert failed.value.code is ErrorCode.DEADLINE_EXCEEDED
        cancelled = asyncio.create_task(connection.request("echo"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(IpcError):
            await first
        assert (await connection.request("echo", {"x": 1})).body == {"x": 1}


@both_loops()
async def test_a_restart_under_a_request_says_so_and_hello_is_said_again() -> None:
    downs: list[str] = []
    async with served(on_down=downs.append) as (server, connection):
        server.handlers["silent"] = lambda _identity, _request: None
        server.handlers["echo"] = echo
        waiting = asyncio.create_task(connection.request("silent"))
        await until(lambda: "silent" in server.methods())
        before = connection.instance
        server.stop()
        with pytest.raises(IpcError) as failed:
            await waiting
        assert failed.value.code is ErrorCode.PEER_RESTARTED
        assert failed.value.retriable
        assert downs == ["the connection was lost"]
        server.start()
        assert (await connection.request("echo", {"x": 2})).body == {"x": 2}
        assert connection.instance == server.instance != before
        assert server.methods().count("hello") == 2
        assert connection.counters.restarts == 1
        # The request under way was not sent to the successor.
        assert server.methods().count("silent") == 1


@both_loops()
async def test_a_blob_above_the_servers_limit_is_refused_here_and_the_connection_goes_on() -> None:
    """The server's socket would end the connection, and every other request on it."""
    downs: list[str] = []
    async with served(on_down=downs.append) as (server, connection):
        server.handlers["echo"] = echo
        await connection.request("echo", blobs=[bytes(200_000)])
        with pytest.raises(IpcError, match="exceeded maximum of 153600 bytes: echo with 200001") as refused:
            await connection.request("echo", blobs=[b"", bytes(200_001)])
        assert refused.value.code is ErrorCode.TOO_LARGE
        assert server.methods().count("echo") == 1
        assert downs == []


@both_loops()
async def test_another_instance_behind_the_same_connection() -> None:
    """A proxy, or a server that renewed itself: no connection was lost, only the instance tells."""
    downs: list[str] = []
    async with served(on_down=downs.append) as (server, connection):
        server.handlers["silent"] = lambda _identity, _request: None
        server.handlers["echo"] = echo
        waiting = asyncio.create_task(connection.request("silent"))
        await until(lambda: "silent" in server.methods())
        server.instance = os.urandom(16)
        assert (await connection.request("echo", {"x": 3})).body == {"x": 3}
        with pytest.raises(IpcError) as failed:
            await waiting
        assert failed.value.code is ErrorCode.PEER_RESTARTED
        assert downs == ["the server was restarted"]
        await connection.wait_ready(5)
        assert connection.counters.hellos == 2


@both_loops()
async def test_a_server_that_forgot_us_is_greeted_again_and_the_request_repeated() -> None:
    async with served() as (server, connection):
        server.handlers["echo"] = echo
        await connection.request("echo")
        server.known.clear()
        assert (await connection.request("echo", {"again": True})).body == {"again": True}
        assert server.methods() == ["hello", "echo", "echo", "hello", "echo"]
        # The same when only a request without reply finds it out.
        server.known.clear()
        assert connection.notify("echo")
        await until(lambda: connection.counters.hellos == 3)


@both_loops()
async def test_a_refused_hello_is_raised_and_tried_again_after_a_restart() -> None:
    async with served() as (server, connection):

        def refuse(_identity: bytes, _request: Request) -> Answer:
            raise IpcError(ErrorCode.UNSUPPORTED_VERSION, "too old", detail={"supported": [7, 9]})

        server.handlers["hello"] = refuse
        server.handlers["echo"] = echo
        with pytest.raises(IpcError) as failed:
            await connection.wait_ready(5)
        assert failed.value.code is ErrorCode.UNSUPPORTED_VERSION
        assert failed.value.detail == {"supported": [7, 9]}
        assert connection.state is ConnectionState.FAILED
        with pytest.raises(IpcError):
            await connection.request("echo")
        server.stop()
        server.handlers["hello"] = server.hello
        server.start()
        await until(lambda: connection.ready)


@both_loops()
async def test_a_conflict_is_waited_out_for_a_while() -> None:
    """The server may not have noticed yet that our predecessor is dead."""
    async with served() as (server, connection):
        refusals = 0

        def refuse(identity: bytes, request: Request) -> Answer:
            nonlocal refusals
            refusals += 1
            if refusals < 4:
                raise IpcError(ErrorCode.CONFLICT, "the name is in use")
            return server.hello(identity, request)

        server.handlers["hello"] = refuse
        await connection.wait_ready(5)
        assert refusals == 4


@both_loops()
async def test_a_wait_that_is_shorter_than_the_conflict_names_the_conflict() -> None:
    async with served() as (server, connection):

        def refuse(_identity: bytes, _request: Request) -> Answer:
            raise IpcError(ErrorCode.CONFLICT, "the name is in use")

        server.handlers["hello"] = refuse
        with pytest.raises(IpcError, match="the name is in use") as caught:
            await connection.wait_ready(1.0)
        assert caught.value.code is ErrorCode.CONFLICT


@both_loops()
async def test_a_hello_that_fails_for_now_is_said_again() -> None:
    async with served() as (server, connection):
        calls = 0

        def later(identity: bytes, request: Request) -> Answer:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise IpcError(ErrorCode.NOT_READY, "starting", retry_after_ms=10)
            return server.hello(identity, request)

        server.handlers["hello"] = later
        await connection.wait_ready(5)
        assert calls == 3


@both_loops()
async def test_a_hello_reply_that_the_owner_refuses_counts_as_refused() -> None:
    def refuse(_reply: Reply) -> None:
        raise IpcError(ErrorCode.BAD_REQUEST, "no network in it")

    async with served(on_hello=refuse) as (_, connection):
        with pytest.raises(IpcError, match="no network"):
            await connection.wait_ready(5)


@both_loops()
async def test_hello_is_repeated_after_a_fault_of_the_caller() -> None:
    seen: list[Reply] = []
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))

    def stumble(reply: Reply) -> None:
        seen.append(reply)
        if len(seen) == 1:
            raise ValueError("a fault")

    async with served(on_hello=stumble) as (_, connection):
        await connection.wait_ready(30.0)
    assert len(seen) == 2
    assert [str(fault) for fault in faults] == ["a fault"]


@both_loops()
async def test_garbage_from_the_server_is_counted_and_harmless() -> None:
    async with served() as (server, connection):
        server.handlers["echo"] = echo
        await connection.request("echo")
        identity = next(iter(server.known))
        garbage: list[list[bytes]] = [
            [b""],
            [b"LD1"],
            [b"LD2", b"\x90", b"\x80"],
            [b"LD1", b"\xc1", b"\x80"],
            [b"LD1", b"\x93\x01", b"\x80"],
            [b"LD1", os.urandom(500), os.urandom(500)],
            [b"\xff" * 100_000],
            encode_reply(bytes(16), server.instance)[:-1],
        ]
        for frames in garbage:
            server.send(identity, frames)
        assert (await connection.request("echo", {"still": "here"})).body == {"still": "here"}
        assert connection.counters.garbage >= len(garbage) - 3  # short ones are read together with the next


@both_loops()
async def test_short_messages_take_nothing_with_them() -> None:
    events: list[list[bytes]] = []
    async with served(on_event=events.append) as (server, connection):
        server.handlers["echo"] = echo
        await connection.request("echo")
        identity = next(iter(server.known))
        event = event_frames(encode_app_event(bytes(16), 1, 0, 7), b"LD1")
        short = [[b"x"], [b"LD1"], [b"x", b"y"], [b"LD1", b"y"], [b"LD1", event[1]]]
        for frames in short:
            server.send(identity, frames)
            server.send(identity, event)
        await connection.request("echo")
        assert events == [event] * len(short)
        assert connection.counters.garbage == len(short)


@both_loops()
async def test_events_go_to_their_own_hook() -> None:
    events: list[list[bytes]] = []
    async with served(on_event=events.append) as (server, connection):
        server.handlers["echo"] = echo
        await connection.request("echo")
        server.send(next(iter(server.known)), [b"LD1", b"\x93\x01\xc4\x00\x01", b"payload"])
        await until(lambda: bool(events))
        assert events[0][2] == b"payload"


@both_loops()
async def test_close_ends_what_waits() -> None:
    async with served() as (server, connection):
        server.handlers["silent"] = lambda _identity, _request: None
        waiting = [asyncio.create_task(connection.request("silent")) for _ in range(3)]
        await until(lambda: server.methods().count("silent") == 3)
        await connection.close()
        for task in waiting:
            with pytest.raises(IpcError, match="closed"):
                await task
        with pytest.raises(IpcError, match="closed") as failed:
            await connection.request("silent")
        assert not failed.value.retriable
        assert not connection.notify("silent")
        await connection.close()


@both_loops()
async def test_silence_makes_us_ask_whether_the_server_still_knows_us() -> None:
    async with served(keepalive="ping", silence=0.2) as (server, connection):
        await connection.wait_ready(5)
        server.known.clear()
        await until(lambda: connection.counters.hellos == 2, deadline=5)
        assert "ping" in server.methods()
