"""Wrong arguments and wrong sockets: an error that says what is right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import zmq

import logos_client
from logos_client import (
    BadRequestError,
    ControlClient,
    Event,
    KernelClient,
    MessageReceived,
    MessageSent,
    MessagingClient,
    NotReadyError,
    TooLargeError,
    blocking,
    kernel_endpoints,
    mapi_endpoints,
)
from tests.unit.logos_client.kernel import MiniKernel
from tests.unit.logos_client.mapi import MiniMapi
from tests.unit.logos_client.server import ContractServer
from tests.unit.logos_client.support import both_loops, short_directory, until

TOPIC = "/a/1/b/c"
Connect = Callable[..., object]


@pytest.mark.parametrize("connect", [MessagingClient.connect, blocking.MessagingClient.connect])
@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        ("http://localhost:8645", ValueError, "ipc://… or tcp://…"),
        ("ipc://", ValueError, "ipc://… or tcp://…"),
        ("", ValueError, "empty"),
        (None, TypeError, "run directory, not NoneType"),
        (b"data/run", TypeError, "not bytes"),
        (kernel_endpoints("/n"), TypeError, "mapi_endpoints"),
        (mapi_endpoints("/n"), TypeError, r"mapi_endpoints\(…\)\.apps"),
        (kernel_endpoints("/n").requests, ValueError, "kernel/requests of a node; apps connect to mapi/apps"),
        (kernel_endpoints("/n").events, ValueError, "kernel/events of a node"),
        (mapi_endpoints("/n").control, ValueError, "mapi/control of a node"),
        ("ipc:///" + 120 * "x", ValueError, "107"),
    ],
)
def test_where_an_app_connects(connect: Connect, where: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        connect(where)


@pytest.mark.parametrize("connect", [KernelClient.connect, blocking.KernelClient.connect])
@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        (None, TypeError, "run directory, or KernelEndpoints, not NoneType"),
        ("http://x", ValueError, "several endpoints"),
        (mapi_endpoints("/n").apps, ValueError, "several endpoints"),
        (mapi_endpoints("/n"), TypeError, "of a Messaging API"),
        (
            kernel_endpoints("/n")._replace(requests=mapi_endpoints("/n").apps),
            ValueError,
            "kernel clients connect to kernel/requests",
        ),
    ],
)
def test_where_a_kernels_client_connects(
    connect: Connect, where: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        connect(where)


@pytest.mark.parametrize("connect", [ControlClient.connect, blocking.ControlClient.connect])
@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        (None, TypeError, "not NoneType"),
        ("data/run", ValueError, "kernel_endpoints"),
        (mapi_endpoints("/n").apps, ValueError, "mapi/apps of a node; control sockets"),
    ],
)
def test_where_a_control_client_connects(
    connect: Connect, where: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        connect(where)


def test_both_forms_refuse_modes_that_are_none() -> None:
    for connect in (MessagingClient.connect, blocking.MessagingClient.connect):
        with pytest.raises(ValueError, match="ack: 'auto' or 'manual', not 'foo'"):
            connect("data/run", ack="foo")  # type: ignore[arg-type]


@both_loops()
async def test_arguments_of_an_app() -> None:
    with short_directory() as directory, closing(MiniMapi(directory / "apps")) as server:
        async with MessagingClient.connect(server.endpoint) as client:
            wrong: list[tuple[type[Exception], str, Callable[[Any], Any]]] = [
                (TypeError, r"payload: bytes, not str; text\.encode", lambda app: app.send(TOPIC, "text")),
                (TypeError, "payload: bytes, not int", lambda app: app.send(TOPIC, 5)),
                (TypeError, "meta: bytes, not str", lambda app: app.send(TOPIC, b"x", meta="m")),
                (TypeError, "content topic: str, not bytes", lambda app: app.send(b"/a", b"x")),
                (ValueError, "16 bytes, not 3", lambda app: app.send(TOPIC, b"x", request_id=b"abc")),
                (TypeError, "request id: bytes", lambda app: app.cancel("abc")),
                (TypeError, "content topic: str, not int", lambda app: app.subscribe([7])),
                (ValueError, "history: seconds", lambda app: app.subscribe(TOPIC, history=-1)),
                (TooLargeError, "of 153600 bytes: .* 200001", lambda app: app.send(TOPIC, bytes(200_001))),
            ]
            for error, text, call in wrong:
                with pytest.raises(error, match=text):
                    await call(client)
            assert server.methods() == ["hello"]
            assert len(await client.send(TOPIC, memoryview(b"xyz"))) == 16
            assert server.requests[-1].blobs == [b"xyz"]
            for options, text in (
                ({"name": 5}, "name: str, not int"),
                ({"credit": "1"}, "credit: int"),
                ({"timeout": "1"}, "timeout: seconds, not str"),
            ):
                with pytest.raises(TypeError, match=text):
                    await MessagingClient.connect(server.endpoint, **options)
            for kind in ("MessageSent", int, None):
                with pytest.raises(TypeError, match="not a class of events"):
                    client.on(kind, print)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="a callback is a function, not int"):
                client.on(MessageSent, 5)  # type: ignore[call-overload]


@both_loops()
async def test_a_single_topic_that_is_refused_raises() -> None:
    with short_directory() as directory, closing(MiniMapi(directory / "apps")) as server:
        server.refused_topics["bad"] = "not a content topic"
        async with MessagingClient.connect(server.endpoint) as client:
            with pytest.raises(BadRequestError, match="bad: not a content topic"):
                await client.subscribe("bad")
            assert await client.subscribe(["bad", TOPIC]) == {"bad": "not a content topic"}
            assert await client.subscriptions() == [TOPIC]


@both_loops()
async def test_callbacks_for_all_events_and_failures_without_payloads() -> None:
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: logged.append(context))
    with short_directory() as directory, closing(MiniMapi(directory / "apps")) as server:
        async with MessagingClient.connect(server.endpoint, name="me") as client:
            seen: list[Event] = []

            def fail(event: MessageReceived) -> None:
                raise RuntimeError("of the app")

            client.on(MessageReceived, fail)
            remove = client.on(Event, seen.append)
            app = server.only_app()
            server.message(app, b"secret")
            await until(lambda: len(seen) == 1)
            server.stop()
            await until(lambda: len(seen) == 2)
            assert [event.kind for event in seen] == ["message_received", "link_lost"]
            remove()
            server.start()
    (context,) = logged
    assert context["message"] == "callback for message_received failed"
    assert str(context["exception"]) == "of the app"
    assert "secret" not in repr(context)


@both_loops()
async def test_a_server_of_another_kind_is_named() -> None:
    with short_directory() as directory, closing(MiniKernel(directory)) as kernel:
        for server in ("logos-kernel/9", "test/1"):
            kernel.hello_body = lambda server=server: {  # type: ignore[method-assign, misc]
                **ContractServer.hello_body(kernel),
                "server": server,
            }
            text = (
                "this is a kernel \\(logos-kernel/9\\)"
                if "kernel" in server
                else "not that of a Messaging API"
            )
            with pytest.raises(BadRequestError, match=text):
                await MessagingClient.connect(kernel.endpoint)

    with short_directory() as directory, closing(MiniMapi(directory / "apps")) as apps:
        apps.handlers["hello"] = lambda _identity, _request: {
            **apps.hello_body(),
            "server": "logos-mapi/9",
        }
        endpoints = kernel_endpoints(directory)._replace(requests=apps.endpoint)
        with pytest.raises(BadRequestError, match="this is a Messaging API"):
            await KernelClient.connect(endpoints)
        del apps.handlers["hello"]
        apps.needs_hello = False
        with pytest.raises(BadRequestError, match="takes no hello: is it a control socket"):
            await MessagingClient.connect(apps.endpoint)


@both_loops()
async def test_a_socket_that_takes_no_requests_is_called_so() -> None:
    with short_directory() as directory, zmq.Context() as context, context.socket(zmq.XPUB) as events:
        events.bind(f"ipc://{directory}/odd")
        with pytest.raises(NotReadyError, match="takes no requests"):
            await MessagingClient.connect(f"ipc://{directory}/odd", timeout=0.5)
        events.close(linger=0)


def test_the_package_has_a_version() -> None:
    assert isinstance(logos_client.__version__, str)
    assert logos_client.__version__


@both_loops()
async def test_clients_print_what_they_are() -> None:
    with short_directory() as directory, closing(MiniMapi(directory / "apps")) as server:
        client = await MessagingClient.connect(server.endpoint, name="me")
        assert repr(client) == f"<MessagingClient 'me' at {server.endpoint}: ready>"
        await client.close()
        assert repr(client) == f"<MessagingClient 'me' at {server.endpoint}: closed>"
        form = await asyncio.to_thread(blocking.MessagingClient.connect, server.endpoint, name="me")
        assert repr(form) == f"<blocking.MessagingClient 'me' at {server.endpoint}: ready>"
        await asyncio.to_thread(form.close)
