"""Publishing through the kernel's relay: many messages in one request, and each message's own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.kernel.relay import (
    FEATURE_PUBLISH_MANY,
    RELAY_PUBLISH,
    RELAY_PUBLISH_MANY,
    RelayPublishManyReply,
    RelayPublishManyRequest,
    RelayPublishReply,
    RelayPublishRequest,
)
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.send.processors import Chain, Relay
from mapi_proc.send.task import NoPeers, Outcome, Published, Refused, SendTask, Unknown
from tests.support.aio import asyncio_test

HASH = bytes(32)
SENT = ("", "", HASH, 1, 3, False)
Answer = IpcError | dict[str, object]


class Kernel:
    """A kernel's link. `results` by payload; `many`: what it answers to a request for many, if not them."""

    def __init__(self, *features: str, results: dict[bytes, tuple[Any, ...]] | None = None) -> None:
        self.hello: Any = type("Hello", (), {"features": features})
        self.unleased: set[int] = set()
        self.results = results or {}
        self.many: Callable[[], Answer] | None = None
        self.asked: list[tuple[str, list[bytes]]] = []
        self.forced: list[bool] = []

    def leased(self, shard: int) -> bool:
        return shard not in self.unleased

    async def wait_leased(self, shards: Sequence[int], timeout: float) -> bool:
        return all(map(self.leased, shards))

    async def request(
        self,
        method: str,
        body: Mapping[str, object],
        blobs: Sequence[bytes],
        *,
        timeout: float,
        weight: int = 1,
    ) -> Reply:
        assert weight == len(blobs)
        await asyncio.sleep(0)
        self.asked.append((method, list(blobs)))
        answer = self._many(body, blobs) if method == RELAY_PUBLISH_MANY else self._one(method, body, blobs)
        if isinstance(answer, IpcError):
            raise answer
        return Reply(bytes(16), 0, bytes(16), answer, ())

    def _many(self, body: Mapping[str, object], blobs: Sequence[bytes]) -> Answer:
        request = RelayPublishManyRequest.from_body(body)
        request.check(blobs)
        self.forced += [message[-1] for message in request.messages]
        if self.many is not None:
            return self.many()
        return RelayPublishManyReply(results=tuple(self.results.get(blob, SENT) for blob in blobs)).to_body()

    def _one(self, method: str, body: Mapping[str, object], blobs: Sequence[bytes]) -> Answer:
        assert method == RELAY_PUBLISH
        self.forced.append(RelayPublishRequest.from_body(body).force)
        code, text, digest, timestamp, peers, duplicate = self.results.get(blobs[0], SENT)
        if code:
            return IpcError(ErrorCode(code), text)
        reply = RelayPublishReply(
            message_hash=digest, timestamp=timestamp, pubsub_topic="/waku/2/rs/0/0", peers=peers
        )
        return reply.to_body() | {"duplicate": duplicate}


class Services:
    """Lightpush: every message finds `outcome`, once `gate` is open."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.gate = asyncio.Event()
        self.asked: list[bytes] = []

    async def attempt(self, task: SendTask, force: bool) -> Outcome:
        self.asked.append(task.payload)
        await self.gate.wait()
        return self.outcome


def a_task(payload: bytes, shard: int = 0) -> SendTask:
    return SendTask(payload, bytes(16), "/app/1/a/proto", shard, payload, b"", False)


async def attempt_all(kernel: Kernel, *payloads: bytes, services: Services | None = None) -> list[Outcome]:
    """The outcomes, in order of the payloads. Without services there is no peer for lightpush."""
    if services is None:
        services = Services(NoPeers("no service"))
        services.gate.set()
    found: dict[bytes, Outcome] = {}

    def concluded(task: SendTask, outcome: Outcome) -> None:
        assert task.payload not in found, "one outcome each"
        found[task.payload] = outcome

    chain = Chain(Relay(cast("KernelLink", kernel)), services)
    await chain.attempt_all(
        [(a_task(one, shard=one[0] - ord("0")), one.endswith(b"!")) for one in payloads], concluded
    )
    return [found[one] for one in payloads]


@asyncio_test()
async def test_many_go_in_one_request_and_each_has_its_own_outcome() -> None:
    kernel = Kernel(
        FEATURE_PUBLISH_MANY,
        results={
            b"0 seen": ("", "", HASH, 1, 0, True),
            b"0 large": ("too_large", "too large by far", b"", 0, 0, False),
            b"0 alone": ("no_peers", "no peer on shard 0", HASH, 1, 0, False),
            b"0 late": ("deadline_exceeded", "the budget ran out", b"", 0, 0, False),
            b"0 later": ("an_error_to_come", "of a later kernel", b"", 0, 0, False),
        },
    )
    payloads = (b"0 a", b"0 seen", b"0 large", b"0 alone", b"0 late", b"0 later", b"0 again!")
    assert await attempt_all(kernel, *payloads) == [
        Published(3),
        Published(0, duplicate=True),
        Refused("too large by far"),
        NoPeers("no peer on shard 0; no service"),
        NoPeers("the budget ran out; no service"),
        Unknown("an_error_to_come: of a later kernel"),
        Published(3),
    ]
    assert kernel.asked == [(RELAY_PUBLISH_MANY, list(payloads))]
    assert kernel.forced == [False] * 6 + [True]


@asyncio_test()
async def test_one_that_goes_on_to_lightpush_delays_no_other() -> None:
    kernel = Kernel(FEATURE_PUBLISH_MANY, results={b"0 b": ("no_peers", "none", HASH, 1, 0, False)})
    services, concluded = Services(Published(1)), asyncio.Queue[SendTask]()
    chain = Chain(Relay(cast("KernelLink", kernel)), services)
    attempts = [(a_task(payload), False) for payload in (b"0 a", b"0 b", b"0 c")]
    work = asyncio.create_task(chain.attempt_all(attempts, lambda task, _: concluded.put_nowait(task)))
    assert [(await concluded.get()).payload for _ in range(2)] == [b"0 a", b"0 c"]
    services.gate.set()
    assert (await concluded.get()).payload == b"0 b"
    await work
    assert services.asked == [b"0 b"]


@asyncio_test()
async def test_a_shard_that_is_not_recorded_yet_delays_no_other() -> None:
    kernel = Kernel(FEATURE_PUBLISH_MANY)
    kernel.unleased.add(1)
    outcomes = await attempt_all(kernel, b"0 a", b"1 b", b"0 c")
    assert outcomes == [
        Published(3),
        NoPeers("the kernel does not follow shard 1 yet; no service"),
        Published(3),
    ]
    assert kernel.asked == [(RELAY_PUBLISH_MANY, [b"0 a", b"0 c"])]


@asyncio_test()
async def test_an_older_kernel_gets_single_requests() -> None:
    kernel = Kernel(results={b"0 b": ("too_large", "text", b"", 0, 0, False)})
    assert await attempt_all(kernel, b"0 a", b"0 b") == [Published(3), Refused("text")]
    assert sorted(kernel.asked) == [(RELAY_PUBLISH, [b"0 a"]), (RELAY_PUBLISH, [b"0 b"])]


@pytest.mark.parametrize("code", [ErrorCode.UNKNOWN_METHOD, ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE])
def test_what_is_refused_as_a_whole_is_sent_singly(code: ErrorCode) -> None:
    """By a kernel that was replaced by an older one, or for one message that is malformed."""

    @asyncio_test()
    async def check() -> None:
        kernel = Kernel(FEATURE_PUBLISH_MANY, results={b"0 b": ("bad_request", "meta", b"", 0, 0, False)})
        kernel.many = lambda: IpcError(code, "refused as a whole")
        assert await attempt_all(kernel, b"0 a", b"0 b") == [Published(3), Refused("meta")]

    check()


@asyncio_test()
async def test_when_the_request_itself_fails_all_have_that_outcome() -> None:
    kernel = Kernel(FEATURE_PUBLISH_MANY)
    kernel.many = lambda: IpcError(ErrorCode.PEER_RESTARTED, "the kernel was restarted")
    assert await attempt_all(kernel, b"0 a", b"0 b") == [Unknown("the kernel was restarted")] * 2
    kernel.many = lambda: IpcError(ErrorCode.BUSY, "256 requests are under way")
    busy = NoPeers("256 requests are under way; no service")
    assert await attempt_all(kernel, b"0 a", b"0 b") == [busy] * 2


@pytest.mark.parametrize("body", [{}, {"results": [["", "", HASH, 1, 3]]}, {"results": [list(SENT)] * 3}])
def test_an_answer_that_cannot_be_read_leaves_it_open_whether_they_are_out(body: dict[str, object]) -> None:
    @asyncio_test()
    async def check() -> None:
        kernel = Kernel(FEATURE_PUBLISH_MANY)
        kernel.many = lambda: body
        assert {type(one) for one in await attempt_all(kernel, b"0 a", b"0 b")} == {Unknown}

    check()
