"""MessagingClient against a small Messaging API on a real ROUTER, on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request, encode_reply
from ipc_schema.mapi.event_codec import encode_app_event, event_frames
from ipc_schema.mapi.events import AppEventKind
from logos_client.events import (
    ConnectionStatusChange,
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessagePropagated,
    MessageReceived,
)
from logos_client.exceptions import (
    BadRequestError,
    ClosedError,
    ConflictError,
    DeadlineError,
    LogosError,
    NotReadyError,
    PeerRestartedError,
    TooLargeError,
)
from logos_client.messaging import MessagingClient
from tests.unit.logos_client.mapi import App, MiniMapi
from tests.unit.logos_client.server import Answer
from tests.unit.logos_client.support import both_loops, short_directory, until

TOPIC = "/a/1/b/c"


@asynccontextmanager
async def mapi() -> AsyncIterator[MiniMapi]:
    with short_directory() as directory:
        server = MiniMapi(directory / "apps")
        try:
            yield server
        finally:
            server.close()


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[MiniMapi, MessagingClient, App]]:
    async with mapi() as server, MessagingClient.connect(server.endpoint, **options) as client:
        yield server, client, server.only_app()


async def payloads(client: MessagingClient, count: int) -> list[bytes]:
    """The payloads of the next `count` messages; other events in between are a failure."""
    found = []
    for _ in range(count):
        event = await client.next_event(5)
        assert isinstance(event, MessageReceived), event
        found.append(event.payload)
    return found


@both_loops()
async def test_what_a_client_knows_after_connecting() -> None:
    async with connected(name="me") as (server, client, app):
        assert (client.name, client.durable, client.connected) == ("me", True, True)
        assert client.network.cluster == 42
        assert client.limits.max_payload == 140_000
        assert client.server == "test/1"
        hello = server.requests[0].body
        assert hello["credit"] == 2 << 20
        assert (await client.status()).connection == "Connected"
        assert (await client.status()).topics == {TOPIC: "MINIMALLY_HEALTHY"}
        assert await client.node_info() == {"Version": "v1", "MyPeerId": "16Uiu2"}
        assert await client.node_info(["MyPeerId"]) == {"MyPeerId": "16Uiu2"}
        assert app.durable


@both_loops()
async def test_the_status_is_known_from_the_hello_on() -> None:
    async with connected() as (server, client, app):
        asked = len(server.requests)
        assert client.last_status.connection == "Connected"
        assert client.last_status.topics == {TOPIC: "MINIMALLY_HEALTHY"}
        server.emit(app, AppEventKind.CONNECTION_STATUS_CHANGE, "Disconnected", "no peers")
        server.emit(app, AppEventKind.CONTENT_TOPIC_HEALTH_CHANGE, "/a/1/b/d", "UNHEALTHY")
        await until(lambda: client.counters.received == 2)
        status = client.last_status
        assert (status.connection, status.reason) == ("Disconnected", "no peers")
        assert status.topics == {TOPIC: "MINIMALLY_HEALTHY", "/a/1/b/d": "UNHEALTHY"}
        assert len(server.requests) == asked
        server.stop()
        server.start()
        await until(lambda: client.last_status.connection == "Connected")  # another hello, another truth


@both_loops()
async def test_subscriptions() -> None:
    async with connected() as (server, client, _):
        server.refused_topics["/bad"] = "bad format"
        assert await client.subscribe([TOPIC, "/bad"]) == {"/bad": "bad format"}
        assert await client.subscribe(TOPIC) == {}
        assert await client.subscriptions() == [TOPIC]
        assert await client.unsubscribe([TOPIC, "/other"]) == {"/other": "not subscribed"}
        assert await client.subscriptions() == []


@both_loops()
async def test_sending_mints_ids_that_are_idempotent() -> None:
    async with connected() as (server, client, _):
        first = await client.send(TOPIC, b"one")
        second = await client.send(TOPIC, memoryview(b"one"), ephemeral=True, meta=b"m")
        assert len(first) == len(second) == 16
        assert first != second
        assert server.requests[-1].body == {
            "request_id": second,
            "content_topic": TOPIC,
            "meta": b"m",
            "ephemeral": True,
        }
        assert await client.send(TOPIC, b"one", request_id=first) == first
        with pytest.raises(ConflictError):
            await client.send(TOPIC, b"two", request_id=first)
        with pytest.raises(BadRequestError, match="empty payload") as refused:
            await client.send(TOPIC, b"")
        assert (refused.value.code, refused.value.retriable) == ("bad_request", False)
        with pytest.raises(ValueError, match="16 bytes"):
            await client.send(TOPIC, b"x", request_id=b"short")


@both_loops()
async def test_a_payload_above_the_limit_is_refused_here() -> None:
    """The server's socket would close the connection on it."""
    async with connected() as (server, client, _):
        with pytest.raises(TooLargeError, match="Message size exceeded maximum of 153600 bytes"):
            await client.send(TOPIC, bytes(200_001))
        assert "send" not in server.methods()


@both_loops()
async def test_many_sends_at_once() -> None:
    async with connected() as (server, client, _):
        ids = await asyncio.gather(*(client.send(TOPIC, b"%d" % n) for n in range(500)))
        assert len(set(ids)) == 500
        assert [server.sends[request_id][1] for request_id in ids] == [b"%d" % n for n in range(500)]


@both_loops()
async def test_every_kind_of_event_comes_typed_and_in_order() -> None:
    async with connected() as (server, client, app):
        request_id, message_hash = os.urandom(16), os.urandom(32)
        server.message(app, b"payload")
        server.emit(app, AppEventKind.MESSAGE_PROPAGATED, request_id, message_hash)
        server.emit(app, 77, "of a later version")
        server.emit(app, AppEventKind.MESSAGE_SENT, request_id, message_hash)
        server.emit(app, AppEventKind.MESSAGE_ERROR, request_id, None, "why")
        server.emit(app, AppEventKind.CONNECTION_STATUS_CHANGE, "Connected", "2 peers")
        server.emit(app, AppEventKind.EVENTS_DROPPED, 3, 5, "bytes")
        server.emit(app, AppEventKind.MESSAGES_MISSED, [TOPIC], 1, 2, "kernel down")
        events = [await client.next_event(5) for _ in range(7)]
        assert [event.kind for event in events] == [
            "message_received",
            "message_propagated",
            "message_sent",
            "message_error",
            "connection_status_change",
            "events_dropped",
            "messages_missed",
        ]
        message = events[0]
        assert message == MessageReceived(app.stream_id, 1, 1, TOPIC, b"payload", bytes(32), 5, b"", False, 0)
        assert events[1] == MessagePropagated(app.stream_id, 2, 2, request_id, message_hash)
        assert client.counters.unknown == 1
        assert client.counters.missing == 0


@both_loops()
async def test_handled_events_are_acknowledged_many_at_once() -> None:
    async with connected(name="me") as (server, client, app):
        for number in range(100):
            server.message(app, b"%d" % number)
        await payloads(client, 100)
        await until(lambda: app.acked == 99)
        # The last one is still in the app's hands.
        with pytest.raises(DeadlineError):
            await client.next_event(0.01)
        await until(lambda: app.acked == 100)
        assert len(app.acks) <= 5


@both_loops()
async def test_manual_acks() -> None:
    async with connected(name="me", ack="manual") as (server, client, app):
        for number in range(3):
            server.message(app, b"%d" % number)
        events = [await client.next_event(5) for _ in range(3)]
        await client.ack(events[1])
        assert app.acked == 2
        await client.ack()
        assert app.acks == [2, 2]  # the third is in hand
        await client.ack(events[2])
        assert app.acked == 3


@both_loops()
async def test_close_acknowledges_what_was_handled_and_says_goodbye() -> None:
    async with mapi() as server:
        client = await MessagingClient.connect(server.endpoint, name="me")
        app = server.only_app()
        for number in range(3):
            server.message(app, b"%d" % number)
        await payloads(client, 2)
        await client.close()
        assert app.acked == 2
        assert server.methods()[-1] == "goodbye"
        await client.close()
        with pytest.raises(ClosedError):
            await client.send(TOPIC, b"x")
        async with MessagingClient.connect(server.endpoint, name="me") as again:
            assert await payloads(again, 1) == [b"2"]


@both_loops()
async def test_a_loop_that_is_left_in_good_order_has_handled_its_last_event() -> None:
    async with mapi() as server:
        seen: list[bytes] = []
        for _ in range(3):
            async with MessagingClient.connect(server.endpoint, name="me") as client:
                if not seen:
                    for number in range(3):
                        server.message(server.only_app(), b"%d" % number)
                async for event in client:
                    assert isinstance(event, MessageReceived)
                    seen.append(event.payload)
                    break
        assert seen == [b"0", b"1", b"2"]
        assert server.only_app().acked == 3


@both_loops()
async def test_an_event_whose_handling_failed_comes_again() -> None:
    """By an exception, a cancelled task, one that is still at it, or `close` on the way of an exception."""
    async with mapi() as server:

        async def connect() -> MessagingClient:
            return await MessagingClient.connect(server.endpoint, name="me")

        client = await connect()
        server.message(server.only_app(), b"once more")

        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with client:
                async for _ in client:
                    raise ZeroDivisionError
        client = await connect()
        try:
            assert await payloads(client, 1) == [b"once more"]
            raise ZeroDivisionError
        except ZeroDivisionError:
            await client.close()

        for ending in (asyncio.Task.cancel, lambda task: None):
            holding = asyncio.Event()

            async def hold(client: MessagingClient, holding: asyncio.Event) -> None:
                await payloads(client, 1)
                holding.set()
                await asyncio.Event().wait()

            client = await connect()
            task = asyncio.create_task(hold(client, holding))
            await holding.wait()
            ending(task)
            await asyncio.wait([task], timeout=0)
            async with client:
                pass
            task.cancel()
        assert server.only_app().acked == 0

        async def take(client: MessagingClient) -> None:
            await payloads(client, 1)

        async with await connect() as client:
            await asyncio.create_task(take(client))  # a task that ended normally is done with it
        assert server.only_app().acked == 1


@both_loops()
async def test_mode_manual_acknowledges_nothing_by_itself() -> None:
    async with mapi() as server:
        async with MessagingClient.connect(server.endpoint, name="me", ack="manual") as client:
            server.message(server.only_app(), b"0")
            await payloads(client, 1)
        assert server.only_app().acked == 0


@both_loops()
async def test_a_slow_app_bounds_what_is_sent_to_it() -> None:
    async with connected(credit=100_000) as (server, client, app):
        for _ in range(100):
            server.message(app, bytes(10_000))
        await until(lambda: len(client._session.stream) == 10)
        assert app.sent == 10
        assert client.buffered_bytes <= 100_000 + 10_200
        received = 0
        while received < 100:
            event = await client.next_event(5)
            assert isinstance(event, MessageReceived)
            received += 1
            assert client.buffered_bytes <= 110_200
        assert app.sent == 100


@both_loops()
async def test_an_event_above_the_whole_credit_still_arrives() -> None:
    async with connected(credit=1_000) as (server, client, app):
        for number in range(5):
            server.message(app, b"%d" % number * 50_000)
        assert [payload[:1] for payload in await payloads(client, 5)] == [b"0", b"1", b"2", b"3", b"4"]


@both_loops()
async def test_a_named_app_resumes_after_a_restart_and_repeats_are_dropped() -> None:
    async with connected(name="me") as (server, client, app):
        await client.subscribe(TOPIC)
        for number in range(5):
            server.message(app, b"%d" % number)
        assert await payloads(client, 3) == [b"0", b"1", b"2"]
        await until(lambda: len(client._session.stream) == 2)
        server.stop()
        assert await payloads(client, 2) == [b"3", b"4"]
        assert isinstance(await client.next_event(5), LinkLost)
        assert not client.connected
        acked = app.acked
        server.start()
        server.message(app, b"5")
        assert await client.next_event(5) == LinkRestored(True, None, 5, {})
        assert await payloads(client, 1) == [b"5"]
        assert acked < 5  # so some were sent again
        assert client.counters.duplicates == 5 - acked
        assert server.methods().count("subscribe") == 1


@both_loops()
async def test_an_ephemeral_app_is_subscribed_again_and_learns_what_is_lost() -> None:
    async with connected() as (server, client, app):
        await client.subscribe([TOPIC, "/a/1/b/d"])
        server.message(app, b"before")
        assert await payloads(client, 1) == [b"before"]
        server.stop()
        server.refused_topics["/a/1/b/d"] = "too many"
        server.start()
        assert isinstance(await client.next_event(5), LinkLost)
        restored = await client.next_event(5)
        assert restored == LinkRestored(False, app.stream_id, 1, {"/a/1/b/d": "too many"})
        assert await client.subscriptions() == [TOPIC]
        server.message(server.only_app(), b"after")
        assert await payloads(client, 1) == [b"after"]


@both_loops()
async def test_a_named_app_whose_database_is_gone() -> None:
    async with connected(name="me") as (server, client, app):
        await client.subscribe(TOPIC)
        server.message(app, b"before")
        await payloads(client, 1)
        server.stop()
        server.forget_all()
        server.start()
        assert isinstance(await client.next_event(5), LinkLost)
        assert await client.next_event(5) == LinkRestored(False, app.stream_id, 1, {})
        assert server.only_app().topics == [TOPIC]
        server.message(server.only_app(), b"again")
        assert await payloads(client, 1) == [b"again"]


@both_loops()
async def test_a_server_that_forgot_the_connection_is_greeted_again() -> None:
    async with connected(name="me") as (server, client, app):
        server.message(app, b"one")
        assert await payloads(client, 1) == [b"one"]
        server.known.clear()
        app.identity = None
        await client.status()
        server.message(app, b"two")
        events = [await client.next_event(5) for _ in range(3)]
        assert [event.kind for event in events] == ["link_lost", "link_restored", "message_received"]


@both_loops()
async def test_a_send_under_way_is_repeated_under_its_id() -> None:
    async with connected(name="me") as (server, client, _):
        usual = server.handlers["send"]
        server.handlers["send"] = lambda _identity, _request: None
        sending = [asyncio.create_task(client.send(TOPIC, b"%d" % n)) for n in range(10)]
        await until(lambda: server.methods().count("send") == 10)
        server.stop()
        server.handlers["send"] = usual
        server.start()
        ids = await asyncio.gather(*sending)
        assert list(server.sends) == ids
        tried = [request.body["request_id"] for request in server.requests if request.method == "send"]
        assert sorted(tried) == sorted(ids * 2)  # type: ignore[type-var]


@both_loops()
async def test_other_requests_under_way_fail_with_peer_restarted() -> None:
    async with connected(name="me") as (server, client, _):
        server.handlers["unsubscribe"] = lambda _identity, _request: None
        asking = asyncio.create_task(client.unsubscribe(TOPIC))
        await until(lambda: "unsubscribe" in server.methods())
        server.stop()
        with pytest.raises(PeerRestartedError) as failed:
            await asking
        assert failed.value.retriable
        assert isinstance(failed.value, ConnectionError)


@both_loops()
async def test_a_send_gives_up_at_its_deadline() -> None:
    async with connected() as (server, client, _):
        server.stop()
        await until(lambda: not client.connected)
        with pytest.raises(NotReadyError):
            await client.send(TOPIC, b"x", timeout=0.1)
        server.start()
        server.handlers["send"] = lambda _identity, _request: None
        with pytest.raises(DeadlineError) as failed:
            await client.send(TOPIC, b"x", timeout=1)
        assert isinstance(failed.value, TimeoutError)


@both_loops()
async def test_connecting_before_there_is_a_messaging_api() -> None:
    async with mapi() as server:
        server.stop()
        with pytest.raises(NotReadyError):
            await MessagingClient.connect(server.endpoint, timeout=0.1)
        asyncio.get_running_loop().call_later(0.1, server.start)
        async with MessagingClient.connect(server.endpoint, timeout=None) as client:
            assert client.connected


@both_loops()
async def test_a_run_directory_is_an_endpoint_too() -> None:
    with short_directory() as directory:
        (directory / "mapi").mkdir()
        server = MiniMapi(directory / "mapi" / "apps")
        async with MessagingClient.connect(directory) as client:
            assert client.connected
        async with MessagingClient.connect(str(directory)) as client:
            assert client.connected
        server.close()
        with pytest.raises(ValueError, match="107"):
            await MessagingClient.connect(Path("/" + "x" * 120))
        with pytest.raises(BadRequestError, match="does not match"):
            await MessagingClient.connect(directory, name="No Name")


@both_loops()
async def test_taking_over_ends_the_other_client() -> None:
    async with connected(name="me") as (server, client, app):
        server.message(app, b"one")
        with pytest.raises(ConflictError):
            await MessagingClient.connect(server.endpoint, name="me")
        async with MessagingClient.connect(server.endpoint, name="me", takeover=True) as heir:
            events: list[Event] = [event async for event in client]
            assert [event.kind for event in events] == ["message_received", "taken_over"]
            with pytest.raises(ConflictError, match="taken over"):
                await client.send(TOPIC, b"x")
            with pytest.raises(ClosedError):
                await client.next_event(1)
            assert await payloads(heir, 1) == [b"one"]
            # The heir does not take over again when it reconnects.
            server.stop()
            server.start()
            await until(lambda: heir._session.connection.counters.hellos == 2)
            assert server.requests[-1].body.get("takeover", False) is False


@both_loops()
async def test_events_in_batches_are_those_of_single_calls() -> None:
    async with connected(name="me", ack="manual") as (server, client, app):
        for number in range(5):
            server.message(app, b"%d" % number)
        server.emit(app, AppEventKind.CHANNEL_SEGMENT_RECEIVED, "room", "bob", "ab", payload=b"sealed")
        server.message(app, b"last")
        await until(lambda: client._session.stream.last_seq == 7)
        found = [await client._next_events(3), await client._next_events(8)]
        # A segment ends a batch: opening it, which takes a request, is left to the wait for the next event.
        assert [[event.seq for event in batch] for batch in found] == [[1, 2, 3], [4, 5]]  # type: ignore[union-attr]
        assert [event.kind for event in await client._next_events(8)] == [
            "channel_segment_received",
            "message_received",
        ]
        heir = await MessagingClient.connect(server.endpoint, name="me", takeover=True)
        assert [event.kind for event in await client._next_events(8)] == ["taken_over"]
        assert await client._next_events(8) == []
        await heir.close()


@both_loops()
async def test_a_batch_returns_its_credit_with_the_next_call() -> None:
    async with connected(ack="manual", credit=10_000) as (server, client, app):
        for _ in range(40):
            server.message(app, bytes(900))
        await until(lambda: client._session.stream.last_seq >= 8)
        seqs = [event.seq for event in await client._next_events(8)]  # type: ignore[union-attr]
        await client.status()  # behind whatever was sent before
        assert (seqs, app.credit) == ([*range(1, 9)], 10_000)
        while len(seqs) < 40:
            seqs += [event.seq for event in await client._next_events(8)]  # type: ignore[union-attr]
        assert seqs == [*range(1, 41)]
        assert app.credit > 10_000


@both_loops()
async def test_callbacks_run_in_order_and_count_as_handled() -> None:
    async with connected(name="me") as (server, client, app):
        seen: list[object] = []
        faults: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: faults.append(context["exception"])
        )

        @client.on(MessageReceived)
        async def received(event: MessageReceived) -> None:
            await asyncio.sleep(0)
            seen.append(event.payload)
            if event.payload == b"1":
                raise RuntimeError("the app's own")

        remove = client.on(ConnectionStatusChange, lambda event: seen.append(event.status))
        server.message(app, b"0")
        server.emit(app, AppEventKind.CONNECTION_STATUS_CHANGE, "Connected", "")
        server.message(app, b"1")
        server.emit(app, AppEventKind.MESSAGES_MISSED, [TOPIC], 1, 2, "without a listener")
        server.message(app, b"2")
        await until(lambda: len(seen) == 4)
        assert seen == [b"0", "Connected", b"1", b"2"]
        assert [str(fault) for fault in faults] == ["the app's own"]
        await until(lambda: app.acked == 5)
        remove()
        server.emit(app, AppEventKind.CONNECTION_STATUS_CHANGE, "Disconnected", "")
        await until(lambda: app.acked == 6)
        assert len(seen) == 4


@both_loops()
async def test_callbacks_and_iteration_share_the_events() -> None:
    async with connected() as (server, client, app):
        statuses: list[str] = []
        client.on(ConnectionStatusChange, lambda event: statuses.append(event.status))
        server.emit(app, AppEventKind.CONNECTION_STATUS_CHANGE, "Connected", "")
        await until(lambda: len(statuses) == 1)
        server.message(app, b"0")
        waiting = asyncio.create_task(client.next_event(5))
        await asyncio.sleep(0)
        server.emit(app, AppEventKind.CONNECTION_STATUS_CHANGE, "Disconnected", "")
        server.message(app, b"1")
        first = await waiting
        assert isinstance(first, MessageReceived)
        rest = [first.payload]
        while rest[-1] != b"1":
            rest += await payloads(client, 1)
        assert statuses == ["Connected", "Disconnected"]


@both_loops()
async def test_a_callback_cannot_wait_for_events_and_two_cannot_iterate() -> None:
    async with connected() as (server, client, app):
        faults: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: faults.append(context["exception"])
        )

        async def wait(_event: MessageReceived) -> None:
            await client.next_event()

        client.on(MessageReceived, wait)
        server.message(app, b"x")
        await until(lambda: len(faults) == 1)
        assert "callback" in str(faults[0])
        waiting = asyncio.create_task(client.next_event())
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="another task"):
            await client.next_event()
        waiting.cancel()


@both_loops()
async def test_an_event_is_not_lost_when_waiting_for_it_is_cancelled() -> None:
    async with connected() as (server, client, app):
        found: list[bytes] = []
        for number in range(50):
            asyncio.get_running_loop().call_later(0.0005 * (number % 4), server.message, app, b"%d" % number)
            with contextlib.suppress(DeadlineError):
                found += [(await client.next_event(0.001)).payload]  # type: ignore[union-attr]
        found += await payloads(client, 50 - len(found))
        assert sorted(map(int, found)) == list(range(50))


@both_loops()
async def test_closing_ends_an_iteration() -> None:
    async with connected() as (_, client, _app):
        asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(client.close()))
        assert [event async for event in client] == []


@both_loops()
async def test_an_unexplained_gap_is_an_event() -> None:
    async with connected() as (server, client, app):
        server.message(app, b"1")
        app.sent += 3  # lost on the way
        app.events += [(b"", b"")] * 3
        server.message(app, b"5")
        assert await payloads(client, 1) == [b"1"]
        gap = await client.next_event(5)
        assert isinstance(gap, EventsDropped)
        assert (gap.first, gap.last, gap.stream_id) == (2, 4, app.stream_id)
        assert await payloads(client, 1) == [b"5"]
        assert client.counters.missing == 3


@both_loops()
async def test_garbage_from_the_server() -> None:
    async with connected() as (server, client, app):
        assert app.identity is not None
        good = encode_app_event(app.stream_id, 1, 1, 1, TOPIC, bytes(32), 5, b"", False, 0)
        for frames in (
            [b"LD1"],
            [b"LD1", b"\x95\x01"],
            [b"LD1", b"\x91\x01", b""],
            [b"LD1", good[:-1], b""],
            [b"LD1", encode_app_event(b"short", 1, 1, 1), b""],
            [b"LD1", encode_app_event(os.urandom(16), 1, 2, 1, bytes(16), bytes(32)), b""],
            [b"LD1", encode_app_event(app.stream_id, 1, 2, 1, "no", "id"), b""],
            encode_reply(os.urandom(16), server.instance, {"stray": True}),
            [b"LD1", os.urandom(2_000), os.urandom(2_000)],
        ):
            server.send(app.identity, frames)
        for frames in ([b"LD1", good, b"kept"], event_frames(good, b"repeat")):
            server.send(app.identity, frames)
        assert await payloads(client, 1) == [b"kept"]
        assert await client.status()
        assert client.counters.duplicates == 1
        assert client.counters.garbage == 5  # the first two were read as one, and the connection counts them


@both_loops()
async def test_a_malformed_hello() -> None:
    async with mapi() as server:

        def strange(_identity: bytes, _request: Request) -> Answer:
            return {"protocol": 1}

        server.handlers["hello"] = strange
        with pytest.raises(LogosError) as failed:
            await MessagingClient.connect(server.endpoint)
        assert failed.value.code is ErrorCode.BAD_REQUEST


@both_loops()
async def test_a_refused_hello_after_a_reconnect_is_seen() -> None:
    async with connected(name="me") as (server, client, _):
        server.stop()

        def refuse(_identity: bytes, _request: Request) -> Answer:
            raise IpcError(ErrorCode.UNAUTHORISED, "not this user")

        server.handlers["hello"] = refuse
        server.start()
        assert isinstance(await client.next_event(5), LinkLost)
        refused = await client.next_event(5)
        assert isinstance(refused, LinkLost)
        assert "not this user" in refused.reason


@both_loops()
async def test_a_flapping_server_does_not_fill_the_memory_of_an_idle_app() -> None:
    async with connected() as (_, client, _app):
        for number in range(500):
            client._session._link_lost(f"reason {number}")
        assert len(client._session.stream) == 64
        event = await client.next_event(1)
        assert event == LinkLost("reason 436")


@both_loops()
async def test_forget() -> None:
    async with connected(name="me") as (server, client, _):
        await client.forget("other")
        assert server.requests[-1].body == {"name": "other"}


@both_loops()
async def test_nothing_is_left_behind() -> None:
    before = len(asyncio.all_tasks())
    async with connected(name="me") as (server, client, app):
        client.on(MessageReceived, lambda event: None)
        server.message(app, b"x")
        await client.status()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
    gc.collect()
