"""The blocking clients: the same interface, threads, callbacks, time limits, their end."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import logos_client
from ipc_schema.mapi.events import AppEventKind
from logos_client import (
    ClosedError,
    ConflictError,
    DeadlineError,
    LinkLost,
    LinkRestored,
    MessagePropagated,
    MessageReceived,
    NotReadyError,
    TakenOver,
    blocking,
)
from logos_client.blocking._portal import Portal
from tests.unit.logos_client.kernel import MiniKernel
from tests.unit.logos_client.mapi import MiniMapi
from tests.unit.logos_client.server_thread import Served, served
from tests.unit.logos_client.support import short_directory

TOPIC = "/a/1/b/c"


@pytest.fixture
def mapi() -> Iterator[Served[MiniMapi]]:
    with short_directory() as directory, served(lambda: MiniMapi(directory / "apps")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Neither of the clients' loops nor of their callbacks."""
    before = set(threading.enumerate())
    yield
    wait_for(lambda: not (set(threading.enumerate()) - before), "all threads have ended")


def wait_for(condition: Callable[[], bool], what: str, deadline: float = 30.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        time.sleep(0.002)


def messages(mapi: Served[MiniMapi], *payloads: bytes) -> None:
    """Put messages on the stream of the only app."""
    mapi.do(lambda server: [server.message(server.only_app(), payload) for payload in payloads])


# -- the same interface -----------------------------------------------------------------------------------

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (getattr(logos_client, name), getattr(blocking, name)) for name in blocking.__all__
]


@pytest.mark.parametrize(("original", "form"), PAIRS, ids=lambda kind: kind.__module__)
def test_names_arguments_and_types_are_the_same(original: type[Any], form: type[Any]) -> None:
    def public(kind: type[Any]) -> dict[str, Any]:
        return {name: member for name, member in inspect.getmembers(kind) if name[0] != "_"}

    hidden = {
        "open_socket",
        "put",
        "ask",
        "hold",
        "drop",
        "heartbeat",
        "answers",
        "lost",
        "found",
    }  # what the parts say to each other
    originals, forms = public(original), public(form)
    assert forms.keys() - {"counters"} == originals.keys() - hidden - {"counters"}  # a plain attribute there
    for name in forms.keys() & originals.keys():
        if isinstance(forms[name], property):
            assert inspect.signature(forms[name].fget) == inspect.signature(originals[name].fget), name
            continue
        ours, theirs = inspect.signature(forms[name]), inspect.signature(originals[name])
        assert ours.parameters.keys() == theirs.parameters.keys(), name
        for parameter in ours.parameters.values():
            other = theirs.parameters[parameter.name]
            assert (parameter.kind, parameter.default) == (other.kind, other.default), f"{name}: {parameter}"
            if name != "on":  # no coroutine functions there
                assert parameter.annotation == other.annotation, f"{name}: {parameter}"
        if name not in ("connect", "control", "events", "on"):
            assert ours.return_annotation == theirs.return_annotation, name


def test_the_forwarding_half_is_up_to_date() -> None:
    """`python client/make_blocking.py` writes it."""
    script = Path(logos_client.__file__).parents[1] / "make_blocking.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- requests ---------------------------------------------------------------------------------------------


def test_requests_and_what_is_known(mapi: Served[MiniMapi]) -> None:
    mapi.do(lambda server: server.refused_topics.update({"/bad": "why not"}))
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:
        assert (client.name, client.durable, client.connected) == ("app", True, True)
        assert client.network.cluster == 42
        assert client.limits.max_payload == 140_000
        assert client.server == "test/1"
        assert client.subscribe(topic for topic in (TOPIC, "/bad")) == {"/bad": "why not"}
        assert client.subscriptions() == [TOPIC]
        assert client.unsubscribe(TOPIC) == {}
        assert len(client.send(TOPIC, b"x")) == 16
        assert client.status().connection == "Connected"
        assert client.node_info(["Version"]) == {"Version": "v1"}
        client.forget("other")
        assert client.buffered_bytes == client.counters.received == 0
    assert not client.connected
    assert client.name == "app"


def test_errors_are_the_same(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:
        request_id = client.send(TOPIC, b"x")
        with pytest.raises(ConflictError):
            client.send(TOPIC, b"y", request_id=request_id)
        with pytest.raises(ValueError, match="16 bytes"):
            client.send(TOPIC, b"x", request_id=b"short")
        mapi.do(lambda server: server.handlers.update({"status": lambda _identity, _request: None}))
        with pytest.raises(DeadlineError):
            client.status(timeout=0.05)
    with pytest.raises(NotReadyError):
        blocking.ControlClient.connect("ipc:///nothing/here", timeout=0.05)


def test_many_threads_use_one_client(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint) as client, ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda number: client.send(TOPIC, b"%d" % number), range(400)))
        assert len(set(ids)) == 400
    assert mapi.do(lambda server: {body[1] for body in server.sends.values()}) == {
        b"%d" % number for number in range(400)
    }


# -- events -----------------------------------------------------------------------------------------------


def test_the_last_event_counts_as_handled_when_the_client_is_left_in_good_order(
    mapi: Served[MiniMapi],
) -> None:
    def connect() -> blocking.MessagingClient:
        return blocking.MessagingClient.connect(mapi.endpoint, name="app")

    def acked() -> int:
        return mapi.do(lambda server: server.only_app().acked)

    def take(client: blocking.MessagingClient) -> None:
        for event in client:
            assert isinstance(event, MessageReceived)
            break

    with connect() as client:
        messages(mapi, b"1", b"2")
        take(client)
    assert acked() == 1

    with pytest.raises(ZeroDivisionError), connect() as client:  # noqa: PT012
        take(client)
        raise ZeroDivisionError
    client = connect()
    try:
        take(client)
        raise ZeroDivisionError
    except ZeroDivisionError:
        client.close()
    with connect() as client:  # another thread may still be at it
        thread = threading.Thread(target=take, args=[client])
        thread.start()
        thread.join()
    assert acked() == 1

    client = connect()
    take(client)
    client.close()
    assert acked() == 2


def test_events_in_order_and_acknowledged_when_the_next_is_asked_for(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:
        messages(mapi, b"1", b"2", b"3")
        got = [client.next_event(5) for _ in range(3)]
        assert [event.payload for event in got if isinstance(event, MessageReceived)] == [b"1", b"2", b"3"]
        wait_for(lambda: mapi.do(lambda server: server.only_app().acked) == 2, "the handled two are acked")
        client.ack(got[2])
        assert mapi.do(lambda server: server.only_app().acked) == 3


def test_a_wait_that_ends_early_loses_no_event_and_acks_none(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:
        for _ in range(3):
            with pytest.raises(DeadlineError, match=r"no event within 0\.01 s"):
                client.next_event(0.01)
        messages(mapi, b"1")
        wait_for(lambda: client.counters.received == 1, "it is here")
    assert mapi.do(lambda server: server.only_app().acked) == 0  # it was never handed out
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:
        event = client.next_event(5)
        assert isinstance(event, MessageReceived)
        assert event.payload == b"1"


def test_one_thread_waits_for_events_at_a_time(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint) as client:
        with ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(client.next_event, 10) for _ in range(2)]
            wait_for(lambda: any(wait.done() for wait in waits), "one is refused")
            messages(mapi, b"1")
            errors = [wait.exception(10) for wait in waits]
        assert {type(error) for error in errors} == {type(None), RuntimeError}
        assert "another thread is waiting" in str(errors)


def test_close_ends_the_iteration_and_the_calls_of_other_threads(mapi: Served[MiniMapi]) -> None:
    mapi.do(lambda server: server.handlers.update({"status": lambda _identity, _request: None}))
    client = blocking.MessagingClient.connect(mapi.endpoint)
    ended: list[object] = []

    def iterate() -> None:
        ended.append([type(event) for event in client])

    def ask() -> None:
        with pytest.raises(ClosedError):
            client.status(timeout=60)
        ended.append("asked")

    threads = [threading.Thread(target=target) for target in (iterate, ask)]
    for thread in threads:
        thread.start()
    wait_for(lambda: "status" in mapi.do(lambda server: server.methods()), "the request is there")
    client.close()
    client.close()
    for thread in threads:
        thread.join(10)
    assert len(ended) == 2
    assert [] in ended
    with pytest.raises(ClosedError):
        client.send(TOPIC, b"x")
    with pytest.raises(ClosedError):
        client.next_event()
    assert list(client) == []


def test_a_lost_and_a_taken_over_connection(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:
        client.subscribe(TOPIC)
        mapi.do(lambda server: server.stop())
        mapi.do(lambda server: server.start())
        assert isinstance(client.next_event(10), LinkLost)
        restored = client.next_event(10)
        assert isinstance(restored, LinkRestored)
        assert restored.resumed
        with blocking.MessagingClient.connect(mapi.endpoint, name="app", takeover=True) as second:
            assert [type(event) for event in client] == [TakenOver]
            with pytest.raises(ConflictError):
                client.send(TOPIC, b"x")
            second.send(TOPIC, b"x")


# -- callbacks --------------------------------------------------------------------------------------------


def test_callbacks_run_in_one_thread_in_order_and_may_call(mapi: Served[MiniMapi]) -> None:
    done = threading.Event()
    seen: list[tuple[bytes, str]] = []
    refused: list[str] = []
    with blocking.MessagingClient.connect(mapi.endpoint, name="app") as client:

        @client.on(MessageReceived)
        def handle(event: MessageReceived) -> None:
            seen.append((event.payload, threading.current_thread().name))
            client.send(TOPIC, b"answer to " + event.payload)
            with pytest.raises(RuntimeError) as caught:
                client.next_event()
            refused.append(str(caught.value))
            if event.payload == b"3":
                done.set()

        messages(mapi, b"1", b"2", b"3")
        assert done.wait(10)
        wait_for(lambda: mapi.do(lambda server: server.only_app().acked) == 3, "all are acknowledged")
    assert seen == [(payload, "logos app callbacks") for payload in (b"1", b"2", b"3")]
    assert set(refused) == {"a callback cannot wait for the next event"}
    assert mapi.do(lambda server: len(server.sends)) == 3


def test_callbacks_beside_an_iteration(mapi: Served[MiniMapi]) -> None:
    with blocking.MessagingClient.connect(mapi.endpoint) as client:
        seen: list[MessageReceived] = []
        remove = client.on(MessageReceived, seen.append)
        with pytest.raises(DeadlineError):
            client.next_event(0.01)  # from now on there is an iteration
        messages(mapi, b"1")
        mapi.do(lambda s: s.emit(s.only_app(), AppEventKind.MESSAGE_PROPAGATED, bytes(16), bytes(32), 1))
        assert isinstance(client.next_event(10), MessagePropagated)
        assert [event.payload for event in seen] == [b"1"]
        remove()
        messages(mapi, b"2")
        event = client.next_event(10)
        assert isinstance(event, MessageReceived)
        assert event.payload == b"2"


def test_a_callback_that_raises_and_one_that_closes(
    mapi: Served[MiniMapi], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    client = blocking.MessagingClient.connect(mapi.endpoint)
    closed = threading.Event()

    def handle(event: MessageReceived) -> None:
        if event.payload == b"1":
            raise OSError("the app's own")
        client.close()
        closed.set()

    client.on(MessageReceived, handle)
    messages(mapi, b"1", b"2")
    assert closed.wait(10)
    assert [(error.exc_type, str(error.exc_value)) for error in raised] == [(OSError, "the app's own")]
    with pytest.raises(ClosedError):
        client.subscriptions()


def test_coroutine_functions_are_refused_as_callbacks(mapi: Served[MiniMapi]) -> None:
    async def handle(_event: MessageReceived) -> None: ...

    with (
        blocking.MessagingClient.connect(mapi.endpoint) as client,
        pytest.raises(TypeError, match="plain function"),
    ):
        client.on(MessageReceived, handle)


# -- the end ----------------------------------------------------------------------------------------------


def test_a_forgotten_client_is_closed_with_a_warning(mapi: Served[MiniMapi]) -> None:
    clients = [blocking.MessagingClient.connect(mapi.endpoint)]
    clients[0].on(MessageReceived, print)
    with pytest.warns(ResourceWarning, match="unclosed MessagingClient"):
        clients.clear()
    wait_for(lambda: "goodbye" in mapi.do(lambda server: server.methods()), "it said goodbye")


def test_calls_and_ends_at_the_same_time_always_end() -> None:
    """Whatever comes between: a call gives its result or ClosedError."""

    async def work() -> int:
        return 1

    def call(portal: Portal) -> int:
        try:
            return portal.call(work)
        except ClosedError:
            return 0

    with ThreadPoolExecutor(4) as pool:
        for _ in range(100):
            portal = Portal("test")
            results = [pool.submit(call, portal) for _ in range(8)]
            portal.close(10)
            assert all(result.result(10) in (0, 1) for result in results)


def test_the_loop_thread_never_waits_for_itself(mapi: Served[MiniMapi]) -> None:
    """As a finaliser might that the garbage collector runs there."""
    with blocking.MessagingClient.connect(mapi.endpoint) as client:

        async def inside() -> None:
            with pytest.raises(RuntimeError, match="wait for itself"):
                client.status()
            client.close()

        portal = client._portal
        portal.call(inside)
        portal.close(10)


# -- kernel -----------------------------------------------------------------------------------------------


def test_the_kernel_client_and_its_feed() -> None:
    with short_directory() as directory:
        (directory / "kernel").mkdir()
        with served(lambda: MiniKernel(directory / "kernel")) as kernel:
            with blocking.KernelClient.connect(directory, name="tool") as client:
                assert client.connected
                assert client.network.cluster == 42
                assert len(client.instance) == 16
                assert client.lease([0])[0].stream == "m/42/0"
                with client.events(shards=[0]) as feed:
                    with pytest.raises(DeadlineError):
                        feed.next_event(0.02)
                    for number in range(5):
                        kernel.do(functools.partial(MiniKernel.message, payload=b"%d" % number))
                    got = [feed.next_event(5) for _ in range(5)]
                    assert [event.payload for event in got] == [b"%d" % n for n in range(5)]  # type: ignore[union-attr]
                    assert feed.counters.received == 5
                    assert feed.buffered_bytes == 0
                assert list(feed) == []
                client.release([0])
                with pytest.raises(ValueError, match="no stream"):
                    client.events()
            with pytest.raises(ClosedError):
                client.peers()
            feed.close()
