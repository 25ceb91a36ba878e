"""Garbage on every socket of a kernel: a clear answer or a counted drop, and it goes on working."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from ipc_schema.frames import MAGIC, NO_CORRELATION, decode_reply, encode_request
from tests.support.kernel_process import Dealer, KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

VECTORS = Path(__file__).resolve().parents[2] / "ipc_schema" / "vectors"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelProcess]:
    with short_directory() as path, KernelProcess(path / "k", "--shard=0") as kernel:
        yield kernel
        assert kernel.process is not None
        assert kernel.process.poll() is None
        assert "Traceback" not in kernel.log.read_text()


def works(kernel: KernelProcess) -> None:
    """Every socket does its work."""
    assert kernel.control().ok("health")["ready"]
    assert kernel.dealer().ok("node.health")["state"] == "READY"
    kernel.subscriber(b"m/0/0\0").heartbeat()


def metric(dealer: Dealer, name: str, **labels: str) -> float:
    found: float = sum(
        value
        for full, given, value in dealer.ok("node.metrics")["metrics"]
        if full.endswith(name) and all(given.get(key) == text for key, text in labels.items())
    )
    return found


@pytest.mark.parametrize("name", ["events", "requests", "control"])
def test_bytes_that_are_not_zmtp(kernel: KernelProcess, name: str) -> None:
    path = getattr(kernel.endpoints, name).removeprefix("ipc://")
    rng = random.Random(name)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
    for junk in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        rng.randbytes(4096),
        greeting[:30],
        greeting + rng.randbytes(200),
        greeting + b"\x04\x05READY" + b"\x02" + b"\xff" * 8,  # a frame that claims 2^64 bytes
        bytes(100_000),
    ):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(path)
            try:
                raw.sendall(junk)
            except (BrokenPipeError, ConnectionResetError):
                continue
    works(kernel)


ODD_MESSAGES: list[list[bytes]] = [
    [b""],
    [b"", b""],
    [b"LD2", b"", b""],
    [MAGIC],
    [MAGIC, b""],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0])],
    [MAGIC, msgpack.packb([bytes(15), "node.health", 0, 0]), b"\x80"],
    [MAGIC, msgpack.packb([bytes(16), 7, 0, 0]), b"\x80"],
    [MAGIC, msgpack.packb([bytes(16), "node.health", -1, 0]), b"\x80"],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 2**63, 0]), b"\x80"],
    [MAGIC, msgpack.packb({"a": 1}), b"\x80"],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0]), b"\x90"],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0]), b"\xdf\xff\xff\xff\xff"],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0]), b"\x81\xa1a" + b"\x91" * 500 + b"\x01"],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0]), b"\x80", *([b"blob"] * 65)],
    [MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0]), b"\x80", *([b""] * 500)],
    [b"", b"", MAGIC, msgpack.packb([bytes(16), "node.health", 0, 0]), b"\x80"],
    [MAGIC, b"\xc1" * 5000, b"\x80"],
]


@pytest.mark.parametrize("frames", ODD_MESSAGES)
@pytest.mark.parametrize("name", ["requests", "control"])
def test_messages_that_are_no_requests(kernel: KernelProcess, name: str, frames: list[bytes]) -> None:
    dealer = kernel.dealer() if name == "requests" else kernel.control()
    dealer.socket.send_multipart(frames)
    error = dealer.receive().error
    assert error is not None
    assert error.code == "bad_request"
    dealer.ok("node.health" if name == "requests" else "health")
    dealer.close()


def test_random_frames_are_all_answered(kernel: KernelProcess) -> None:
    rng = random.Random(2)
    dealer = kernel.dealer()
    refused = metric(dealer, "ipc_errors", socket="requests", code="bad_request")
    for _ in range(500):
        frames = [rng.randbytes(rng.choice((0, 1, 3, 16, 200))) for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.5:
            frames[0] = MAGIC
        dealer.socket.send_multipart(frames)
        assert decode_reply(dealer.frames()).error is not None
    assert metric(dealer, "ipc_errors", socket="requests", code="bad_request") == refused + 500
    works(kernel)


def test_mutilated_requests_never_hurt(kernel: KernelProcess) -> None:
    rng = random.Random(3)
    dealer = kernel.dealer("victim")
    bodies: list[tuple[str, dict[str, object]]] = [
        ("lease.acquire", {"shards": [0]}),
        ("stream.replay", {"stream": "m/0/0", "epoch": bytes(8), "after": 0}),
        ("relay.publish", {"content_topic": "/a/1/b/proto", "meta": b"m"}),
        ("hello", {"kind": "tool", "protocol": [1, 1], "name": "victim"}),
        ("node.info", {"ids": ["Version"]}),
    ]
    for _ in range(600):
        method, body = rng.choice(bodies)
        frames = encode_request(os.urandom(16), method, body, [b"payload"])
        index = rng.randrange(1, 3)
        mutable = bytearray(frames[index])
        for _ in range(rng.randint(1, 3)):
            mutable[rng.randrange(len(mutable))] = rng.randrange(256)
        frames[index] = bytes(mutable)
        dealer.socket.send_multipart(frames)
        if _is_no_reply(frames[1]):
            continue
        dealer.frames()
    works(kernel)


def _is_no_reply(header: bytes) -> bool:
    try:
        unpacked = msgpack.unpackb(header)
        return bool(unpacked[3] & 1)
    except Exception:  # whatever a broken header raises, it is not that flag
        return False


def test_frames_above_the_limit_end_their_connection_only(kernel: KernelProcess) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    other = kernel.dealer()
    try:
        for endpoint, size in (
            (kernel.endpoints.requests, 2 << 20),
            (kernel.endpoints.control, 1 << 20),
        ):
            for frame in range(3):
                dealer = context.socket(zmq.DEALER)
                dealer.set(zmq.LINGER, 0)
                dealer.set(zmq.RCVTIMEO, 300)
                dealer.connect(endpoint)
                frames = encode_request(bytes(16), "node.health")
                frames[frame] = bytes(size)
                dealer.send_multipart(frames)
                with pytest.raises(zmq.Again):
                    dealer.recv_multipart()
                dealer.close()
        subscriber = context.socket(zmq.SUB)
        subscriber.set(zmq.LINGER, 0)
        subscriber.subscribe(b"x" * 100_000)
        subscriber.connect(kernel.endpoints.events)
        other.ok("node.health")
        subscriber.close()
    finally:
        context.term()
    works(kernel)


def test_strange_subscriptions_are_counted(kernel: KernelProcess) -> None:
    dealer = kernel.dealer()
    before = metric(dealer, "ipc_subscriptions_ignored")
    strange = [b"", b"m", b"m/", b"m/0/0", b"m/00/0\0", b"m/0/99999\0", b"m/0/-1\0", b"m/\xff/0\0", b"P\0"]
    subscriber = kernel.subscriber(*strange)
    eventually(lambda: metric(dealer, "ipc_subscriptions_ignored") >= before + len(strange))
    subscriber.close()
    works(kernel)


def test_every_bad_request_of_the_contract_is_refused(kernel: KernelProcess) -> None:
    """The bad frames of the contract's vectors, sent to a live kernel."""
    files = sorted(VECTORS.glob("*request*.json")) + sorted(VECTORS.glob("frames*.json"))
    sent = 0
    dealer = kernel.dealer()
    for file in files:
        for case in _bad_cases(json.loads(file.read_text())):
            dealer.socket.send_multipart(case)
            error = dealer.receive().error
            assert error is not None, (file.name, case)
            sent += 1
    if not sent:
        pytest.skip("the vectors hold no bad requests")
    works(kernel)


def _bad_cases(document: object) -> Iterator[list[bytes]]:
    """Frames of entries that are marked as bad requests, wherever they stand in the document."""
    if isinstance(document, list):
        for item in document:
            yield from _bad_cases(item)
    elif isinstance(document, dict):
        frames, expected = document.get("frames"), document.get("error")
        if document.get("kind") == "request" and expected and isinstance(frames, list):
            yield [bytes.fromhex(frame) for frame in frames]
        for value in document.values():
            yield from _bad_cases(value)


def test_an_answer_to_garbage_has_a_zero_id(kernel: KernelProcess) -> None:
    dealer = kernel.control()
    dealer.socket.send_multipart([b"what"])
    assert dealer.receive().correlation_id == NO_CORRELATION
