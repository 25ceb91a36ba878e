"""One request, one response: what each side does with a peer that does not keep to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from ipc_schema.config.ratelimits import RateLimit
from kernel_proc.p2p.api import PeerIdText, Stream, StreamClosed
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.ratelimit import PeerLimiter, RateLimiter
from kernel_proc.protocols.requests import (
    BadAnswer,
    CallError,
    Handler,
    NoAnswer,
    RequestService,
    ServiceLimits,
    call,
)
from tests.support.memory_hosts import MemoryHost, MemoryNetwork, MemoryStream, memory_network
from tests.support.mock_clock import mock_clock_test

PROTOCOL = "/p"
LIMITS = ServiceLimits(max_request=100, read_timeout=5, answer_timeout=5, write_timeout=5, at_once=3)


async def upper(_peer: PeerIdText, body: bytes) -> bytes:
    return body.upper()


@asynccontextmanager
async def serving(
    handle: Handler = upper, limiter: RateLimiter | None = None, limits: ServiceLimits = LIMITS
) -> AsyncIterator[tuple[MemoryNetwork, MemoryHost, RequestService]]:
    """A server `far` and a host `near`."""
    async with memory_network() as network:
        far, near = network.host("far"), network.host("near")
        service = RequestService(
            far, PROTOCOL, handle, service="p", rejected=b"no", limits=limits, limiter=limiter
        )
        service.mount()
        yield network, near, service


async def ask(near: MemoryHost, body: bytes, **more: Any) -> bytes:
    return await call(
        near,
        "far",
        ["/other", PROTOCOL],
        body,
        decode=bytes,
        max_response=1000,
        deadline=20,
        **more,
    )


async def read_all(stream: Stream) -> bytes:
    data = b""
    while piece := await stream.read():
        data += piece
    return data


# --- the side that serves ---


@mock_clock_test
async def test_a_request_is_answered_and_the_stream_closed() -> None:
    async with serving() as (_, near, service):
        stream = await near.open_stream("far", [PROTOCOL])
        await stream.write(encode_frame(b"hello"))  # and no half close, as nwaku
        assert await read_all(stream) == encode_frame(b"HELLO")
        assert await ask(near, b"") == b""
        counters = service.counters
        assert (counters["served"], counters["bytes_in"], counters["bytes_out"]) == (2, 5, 7)
        samples = {(name, labels.get("state")): value for name, labels, value in service.samples()}
        assert samples["service_requests", "served"] == 2
        # without a limiter; the time is a histogram of the service
        assert samples["service_requests_limit", None] == 0
        assert samples["service_request_handling_duration_seconds_count", None] == 2


@mock_clock_test
async def test_a_stream_may_be_idle_for_long_before_it_asks() -> None:
    async with serving() as (_, near, _):
        stream = await near.open_stream("far", [PROTOCOL])
        await trio.sleep(3600)
        await stream.write(encode_frame(b"at last"))
        assert await read_all(stream) == encode_frame(b"AT LAST")


@pytest.mark.parametrize("data", [b"\x65", b"\xff\xff\xff\xff\xff\xff", encode_frame(b"x" * 101)])
@mock_clock_test
async def test_oversize_costs_the_stream_only(data: bytes) -> None:
    async with serving() as (_, near, service):
        stream = await near.open_stream("far", [PROTOCOL])
        await stream.write(data)
        with pytest.raises(StreamClosed):
            await read_all(stream)
        assert service.counters["malformed"] == 1
        assert await ask(near, b"fine") == b"FINE"


@pytest.mark.parametrize("data", [b"\x80", b"\x05ab"])
@mock_clock_test
async def test_a_request_that_does_not_end_is_given_up(data: bytes) -> None:
    async with serving() as (_, near, service):
        stream = await near.open_stream("far", [PROTOCOL])
        await stream.write(data)
        begun = trio.current_time()
        with pytest.raises(StreamClosed):
            await read_all(stream)
        assert trio.current_time() - begun == 5
        assert service.counters["stalled"] == 1


@pytest.mark.parametrize("half", [b"", b"\x05ab"])
@mock_clock_test
async def test_a_peer_that_leaves_in_mid_request(half: bytes) -> None:
    async with serving() as (network, near, service):
        stream = await near.open_stream("far", [PROTOCOL])
        if half:
            await stream.write(half)
        await stream.reset()
        assert await ask(near, b"next") == b"NEXT"
        assert network.hosts["far"].handler_errors == []
        assert service.counters["served"] == 1


@mock_clock_test
async def test_over_the_rate_limit_the_answer_comes_before_the_request_is_read() -> None:
    async with serving(limiter=PeerLimiter(RateLimit(0, 1.0))) as (_, near, service):
        stream = await near.open_stream("far", [PROTOCOL])
        await stream.write(b"\x50")  # only the length of a request
        assert await read_all(stream) == encode_frame(b"no")
        assert service.counters["rejected"] == 1
        idle = await near.open_stream("far", [PROTOCOL])  # asks nothing, costs nothing
        await idle.close()
        assert await read_all(idle) == b""
        assert service.counters["rejected"] == 1


@mock_clock_test
async def test_a_stuck_handler_holds_its_place_for_a_while_only() -> None:
    async def stuck(_peer: PeerIdText, body: bytes) -> bytes:
        if body == b"stuck":
            await trio.sleep_forever()
        return body

    async with serving(stuck) as (_, near, service):
        answers: list[str] = []

        async def one() -> None:
            try:
                await ask(near, b"stuck")
            except NoAnswer:
                answers.append("none")

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked()
            assert await ask(near, b"more") == b"no"
            assert service.counters["busy"] == 1
        assert answers == ["none"] * 3
        assert service.counters["abandoned"] == 3
        assert await ask(near, b"fine") == b"fine"


@mock_clock_test
async def test_one_peer_cannot_take_every_place() -> None:
    release = trio.Event()

    async def wait(_peer: PeerIdText, body: bytes) -> bytes:
        await release.wait()
        return body

    limits = LIMITS._replace(at_once=10, at_once_per_peer=2)
    async with serving(wait, limits=limits) as (network, near, service):
        other = network.host("other")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(ask, near, b"x")
            await trio.testing.wait_all_tasks_blocked()
            assert await ask(near, b"y") == b"no"
            nursery.start_soon(ask, other, b"z")
            await trio.testing.wait_all_tasks_blocked()
            release.set()
        assert service.counters["served"] == 3


@mock_clock_test
async def test_a_handler_bug_is_reported_to_the_host_and_contained() -> None:
    async def broken(_peer: PeerIdText, body: bytes) -> bytes | None:
        if body == b"break":
            raise ZeroDivisionError
        return None if body == b"nothing" else body

    async with serving(broken) as (network, near, service):
        with pytest.raises(NoAnswer):
            await ask(near, b"break")
        assert [type(error) for error in network.hosts["far"].handler_errors] == [ZeroDivisionError]
        with pytest.raises(NoAnswer):
            await ask(near, b"nothing")
        assert service.counters["unanswered"] == 1
        assert await ask(near, b"fine") == b"fine"


# --- the side that asks ---


@asynccontextmanager
async def answering(handler: Any) -> AsyncIterator[MemoryHost]:
    async with memory_network() as network:
        network.host("far").set_stream_handler(PROTOCOL, handler)
        yield network.host("near")


@mock_clock_test
async def test_answers_in_many_pieces_are_put_together() -> None:
    async def drip(stream: MemoryStream) -> None:
        await MessageReader(stream, 100).read()
        for byte in encode_frame(b"slow but sure"):
            await trio.sleep(0.5)
            await stream.write(bytes((byte,)))

    async with answering(drip) as near:
        assert await ask(near, b"x") == b"slow but sure"


async def never(stream: MemoryStream) -> None:
    await trio.sleep_forever()


async def half(stream: MemoryStream) -> None:
    await stream.write(b"\x10ab")
    await trio.sleep_forever()


async def forever(stream: MemoryStream) -> None:
    await stream.write(b"\xff\x06")
    while True:
        await trio.sleep(1)
        await stream.write(b"x")


async def closes(stream: MemoryStream) -> None:
    await stream.read()


async def breaks(stream: MemoryStream) -> None:
    await stream.write(b"\x10ab")
    await stream.reset()


async def large(stream: MemoryStream) -> None:
    await stream.write(b"\xff\xff\xff\x7f")
    await trio.sleep_forever()


async def garbage(stream: MemoryStream) -> None:
    await stream.write(b"\xff" * 50)
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (never, NoAnswer),
        (half, NoAnswer),
        (forever, NoAnswer),
        (closes, NoAnswer),
        (breaks, NoAnswer),
        (large, BadAnswer),
        (garbage, BadAnswer),
    ],
)
@mock_clock_test
async def test_a_bad_server_is_an_error_within_the_deadline(handler: Any, error: type[CallError]) -> None:
    async with answering(handler) as near:
        begun = trio.current_time()
        with pytest.raises(error):
            await ask(near, b"x")
        assert trio.current_time() - begun <= 20
