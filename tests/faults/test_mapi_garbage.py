"""Garbage on every socket of a Messaging API: a clear answer or a counted drop, and it goes on working.

(The kernel's sockets have the same in `test_kernel_garbage`.)
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from ipc_schema.frames import MAGIC, NO_CORRELATION, encode_request
from ipc_schema.paths import mapi_endpoints
from tests.support.aio import asyncio_test
from tests.support.kernel_process import Context, Dealer, eventually, short_directory
from tests.support.mapi_process import AppDealer
from tests.support.nodes import TOPIC, Node, single_node
from tests.support.recorder import Recorder

pytestmark = pytest.mark.integration

VECTORS = Path(__file__).resolve().parents[2] / "ipc_schema" / "vectors"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)


class Target:
    """A node, and plain sockets to its Messaging API."""

    def __init__(self, node: Node, context: Context) -> None:
        self.node = node
        self.context = context
        self.endpoints = mapi_endpoints(node.run)
        self._dealers: list[Dealer] = []

    def dealer(self, *, hello: bool = True, **body: object) -> Dealer:
        """A connection to the apps' socket."""
        dealer = self._new(self.endpoints.apps)
        if hello:
            dealer.ok("hello", {"kind": "app", "protocol": [1, 1], **body})
        return dealer

    def control(self) -> Dealer:
        return self._new(self.endpoints.control)

    def _new(self, endpoint: str) -> Dealer:
        self._dealers.append(AppDealer(self.context, endpoint))
        return self._dealers[-1]

    def health(self) -> dict[str, Any]:
        control = self.control()
        health = control.ok("health")
        control.close()
        return health

    def bad(self, name: str) -> int:
        """Messages on a socket that could not be understood."""
        return int(self.health()["ipc"][name]["bad"])

    def works(self) -> None:
        """Both sockets do their work, and no handler failed."""
        health = self.health()
        assert health["ready"]
        assert health["ipc"]["apps"]["faults"] == health["ipc"]["control"]["faults"] == 0
        app = self.dealer()
        assert app.ok("subscribe", {"topics": [TOPIC]}) == {"errors": {}}
        app.ok("goodbye")

    def end(self) -> None:
        for dealer in self._dealers:
            dealer.close()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    context: Context = zmq.Context()
    with short_directory() as path, single_node(path, mapi_options=("--max-topics-per-app=10000",)) as node:
        target = Target(node, context)
        eventually(lambda: _is_ready(target))
        yield target
        target.works()
        target.end()
        context.term()
        assert "Traceback" not in node.mapi.logged()


def _is_ready(target: Target) -> bool:
    control = target.control()
    control.send("health")
    try:
        return bool(control.receive(0.5).body["ready"])
    except TimeoutError:
        return False
    finally:
        control.close()


@pytest.mark.parametrize("name", ["apps", "control"])
def test_bytes_that_are_not_zmtp(target: Target, name: str) -> None:
    path = getattr(target.endpoints, name).removeprefix("ipc://")
    rng = random.Random(name)
    for junk in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        rng.randbytes(4096),
        GREETING[:30],
        GREETING + rng.randbytes(200),
        GREETING + b"\x04\x05READY" + b"\x02" + b"\xff" * 8,  # a frame that claims 2^64 bytes
        bytes(100_000),
    ):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(path)
            try:
                raw.sendall(junk)
            except (BrokenPipeError, ConnectionResetError):
                continue
    target.works()


def test_a_handshake_that_never_ends_delays_no_one_else(target: Target) -> None:
    path = target.endpoints.apps.removeprefix("ipc://")
    open_ones = [socket.socket(socket.AF_UNIX) for _ in range(50)]
    try:
        for raw in open_ones:
            raw.connect(path)
            raw.sendall(GREETING[:12])
        target.works()
    finally:
        for raw in open_ones:
            raw.close()


HEADER = msgpack.packb([bytes(16), "ping", 0, 0])
ODD_MESSAGES: list[list[bytes]] = [
    [b""],
    [b"", b""],
    [b"LD2", b"", b""],
    [MAGIC],
    [MAGIC, b""],
    [MAGIC, HEADER],
    [MAGIC, msgpack.packb([bytes(15), "ping", 0, 0]), b"\x80"],
    [MAGIC, msgpack.packb([bytes(16), 7, 0, 0]), b"\x80"],
    [MAGIC, msgpack.packb([bytes(16), "ping", -1, 0]), b"\x80"],
    [MAGIC, msgpack.packb([1, bytes(16), 1, 1, 1]), b"\x80"],  # an event, from an app
    [MAGIC, msgpack.packb({"a": 1}), b"\x80"],
    [MAGIC, HEADER, b"\x90"],
    [MAGIC, HEADER, b"\xdf\xff\xff\xff\xff"],
    [MAGIC, HEADER, b"\x81\xa1a" + b"\x91" * 500 + b"\x01"],
    [MAGIC, HEADER, b"\x80", *([b"blob"] * 65)],
    [b"", b"", MAGIC, HEADER, b"\x80"],
    [MAGIC, b"\xc1" * 5000, b"\x80"],
]


@pytest.mark.parametrize("name", ["apps", "control"])
def test_messages_that_are_no_requests(target: Target, name: str) -> None:
    before = target.bad(name)
    for frames in ODD_MESSAGES:
        # Twice: from a connection that is known, and from one that is not.
        for hello in (True, False):
            dealer = target.dealer(hello=hello) if name == "apps" else target.control()
            dealer.socket.send_multipart(frames)
            error = dealer.receive().error
            assert error is not None, frames
            assert error.code == "bad_request", frames
            dealer.close()
    assert target.bad(name) == before + 2 * len(ODD_MESSAGES)
    target.works()


BAD_BODIES: list[tuple[str, dict[str, object], list[bytes]]] = [
    ("subscribe", {}, []),
    ("subscribe", {"topics": TOPIC}, []),
    ("subscribe", {"topics": [1]}, []),
    ("unsubscribe", {"topics": {"a": 1}}, []),
    ("send", {"request_id": bytes(15), "content_topic": TOPIC}, [b"x"]),
    ("send", {"request_id": bytes(16), "content_topic": 5}, [b"x"]),
    ("send", {"request_id": bytes(16), "content_topic": TOPIC}, []),
    ("send", {"request_id": bytes(16), "content_topic": TOPIC}, [b"x", b"y"]),
    ("send", {"request_id": bytes(16), "content_topic": TOPIC, "meta": "text"}, [b"x"]),
    ("send", {"request_id": bytes(16), "content_topic": TOPIC, "ephemeral": 1}, [b"x"]),
    ("ack", {"stream": bytes(16)}, []),
    ("ack", {"stream": bytes(16), "seq": -1}, []),
    ("credit", {"total": "much"}, []),
    ("credit", {"total": 2**63}, []),
    ("forget", {"name": "No Such Name"}, []),
    ("node.info", {"ids": [7]}, []),
    ("node.info", {"ids": ["NoSuchFact"]}, []),
    ("hello", {"kind": "app"}, []),
    ("hello", {"kind": "app", "protocol": [2, 1]}, []),
    ("hello", {"kind": "app", "protocol": [1, 1], "name": "../../etc"}, []),
    ("hello", {"kind": "app", "protocol": [1, 1], "credit": -5}, []),
]


@pytest.mark.parametrize(("method", "body", "blobs"), BAD_BODIES)
def test_bodies_that_mean_nothing_are_refused(
    target: Target, method: str, body: dict[str, object], blobs: list[bytes]
) -> None:
    app = target.dealer()
    assert app.code(method, body, *blobs) == "bad_request"
    assert app.ok("ping") == {}, "the connection lives on"
    app.close()


def test_what_is_asked_without_need_or_right_has_its_code(target: Target) -> None:
    stranger = target.dealer(hello=False)
    assert stranger.code("ping") == "not_ready"
    assert stranger.code("no.such.method") == "not_ready"
    assert stranger.code("hello", {"kind": "app", "protocol": [2, 9]}) == "unsupported_version"
    app = target.dealer()
    assert app.code("no.such.method") == "unknown_method"
    assert app.code("ack", {"stream": bytes(16), "seq": 0}) == "conflict"
    assert app.code("forget", {"name": "unknown"}) == "bad_request"
    assert target.control().code("ping") == "unknown_method"
    assert target.control().code("log_level", {"level": "LOUD"}) == "bad_request"


def test_random_frames_are_all_answered(target: Target) -> None:
    rng = random.Random(2)
    app = target.dealer()
    before = target.bad("apps")
    for _ in range(500):
        frames = [rng.randbytes(rng.choice((0, 1, 3, 16, 200))) for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.5:
            frames[0] = MAGIC
        app.socket.send_multipart(frames)
        assert app.receive().error is not None
    assert target.bad("apps") == before + 500
    target.works()


def test_mutilated_requests_never_hurt(target: Target) -> None:
    rng = random.Random(3)
    app = target.dealer(name="victim")
    bodies: list[tuple[str, dict[str, object]]] = [
        ("subscribe", {"topics": [TOPIC, "/a/1/b/proto"]}),
        ("send", {"request_id": bytes(16), "content_topic": TOPIC, "meta": b"m"}),
        ("ack", {"stream": bytes(16), "seq": 1}),
        ("credit", {"total": 0}),
        ("hello", {"kind": "app", "protocol": [1, 1], "name": "victim", "takeover": True}),
        ("status", {}),
    ]
    for _ in range(600):
        method, body = rng.choice(bodies)
        frames = encode_request(os.urandom(16), method, body, [b"payload"])
        index = rng.randrange(1, 3)
        mutable = bytearray(frames[index])
        for _ in range(rng.randint(1, 3)):
            mutable[rng.randrange(len(mutable))] = rng.randrange(256)
        frames[index] = bytes(mutable)
        app.socket.send_multipart(frames)
    probe = target.dealer()
    eventually(lambda: probe.ok("ping") == {})
    target.works()
    app.close()


def test_frames_above_the_limit_end_their_connection_only(target: Target) -> None:
    other = target.dealer()
    for endpoint, size in ((target.endpoints.apps, 2 << 20), (target.endpoints.control, 2 << 20)):
        for frame in range(3):
            dealer = Dealer(target.context, endpoint)
            frames = encode_request(bytes(16), "ping")
            frames[frame] = bytes(size)
            dealer.socket.send_multipart(frames)
            with pytest.raises(TimeoutError):
                dealer.receive(0.2)
            dealer.close()
    assert other.ok("ping") == {}
    target.works()


def test_many_requests_at_once_are_bounded(target: Target) -> None:
    """A flood of requests that take time: some are done, others are answered busy, no other client waits."""
    app, other = target.dealer(name="flood"), target.dealer()
    limit = target.control().ok("health")["ipc"]["apps"]["in_flight"] + 256
    count = 3 * limit
    ids = {app.send("subscribe", {"topics": [f"/flood/1/{n}/proto"]}) for n in range(count)}
    assert other.ok("ping") == {}
    codes = []
    for _ in range(count):
        reply = app.receive()
        ids.discard(reply.correlation_id)
        codes.append(str(reply.error.code) if reply.error else "ok")
    assert not ids
    assert set(codes) <= {"ok", "busy"}
    assert codes.count("ok") >= 256
    app.close()
    target.works()


def test_every_bad_request_of_the_contract_is_refused(target: Target) -> None:
    """The bad frames of the contract's vectors, sent to a live Messaging API."""
    sent = 0
    app = target.dealer()
    for file in sorted(VECTORS.glob("frames*.json")):
        for case in _bad_cases(json.loads(file.read_text())):
            app.socket.send_multipart(case)
            assert app.receive().error is not None, (file.name, case)
            sent += 1
    assert sent
    target.works()


def _bad_cases(document: object) -> Iterator[list[bytes]]:
    if isinstance(document, list):
        for item in document:
            yield from _bad_cases(item)
    elif isinstance(document, dict):
        frames, expected = document.get("frames"), document.get("error")
        if document.get("kind") == "request" and expected and isinstance(frames, list):
            yield [bytes.fromhex(frame) for frame in frames]
        for value in document.values():
            yield from _bad_cases(value)


def test_an_answer_to_garbage_has_a_zero_id(target: Target) -> None:
    control = target.control()
    control.socket.send_multipart([b"what"])
    assert control.receive().correlation_id == NO_CORRELATION


def test_garbage_does_not_disturb_an_app_that_works(target: Target) -> None:
    """An app receives while another connection sends nothing but rubbish."""

    @asyncio_test()
    async def run() -> None:
        async with Recorder(target.node.directory) as app:
            await app.subscribed(TOPIC, mesh=False)
            vandal = Dealer(target.context, target.endpoints.apps)
            kernel = target.node.kernel.dealer()
            rng = random.Random(5)
            for number in range(50):
                for _ in range(20):
                    vandal.socket.send_multipart([rng.randbytes(50) for _ in range(4)])
                kernel.code("relay.publish", {"content_topic": TOPIC}, b"%d" % number)
            await app.until(lambda: app.payloads == [b"%d" % number for number in range(50)])
            vandal.close()

    run()


def test_an_app_with_more_topics_than_a_reply_can_carry_comes_back(target: Target) -> None:
    topics = sorted(f"/app/1/{number}-{'x' * 230}/proto" for number in range(5_000))
    app = target.dealer(name="many-topics")
    for start in range(0, len(topics), 1_000):
        assert app.ok("subscribe", {"topics": topics[start : start + 1_000]}) == {"errors": {}}
    app.ok("goodbye")
    app.close()
    again = target.dealer(hello=False)
    hello = again.ok("hello", {"kind": "app", "protocol": [1, 1], "name": "many-topics", "takeover": True})
    assert hello["more"]
    assert hello["status"]["more"]
    found, statuses = list(hello["subscriptions"]), dict(hello["status"]["topics"])
    while True:
        part = again.ok("subscriptions", {"after": found[-1]})
        found += part["topics"]
        if not part.get("more"):
            break
    while (part := again.ok("status", {"after": max(statuses)}))["topics"]:
        statuses |= part["topics"]
    assert found == topics
    assert sorted(statuses) == topics
    again.ok("goodbye")
    assert target.dealer().ok("ping") == {}
    target.dealer().ok("forget", {"name": "many-topics"})
