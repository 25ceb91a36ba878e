"""Sends of one turn of the loop in one request, against a small Messaging API on a real ROUTER."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.mapi.send_many import FEATURE_SEND_MANY, MAX_SEND_BYTES, MAX_SENDS, SEND_MANY
from logos_client._joined_sends import MAX_JOINED
from logos_client.exceptions import BadRequestError, BusyError, ClosedError, DeadlineError
from logos_client.messaging import MessagingClient
from tests.unit.logos_client.mapi import MiniMapi
from tests.unit.logos_client.server import Answer
from tests.unit.logos_client.support import both_loops, short_directory, until

TOPIC = "/a/1/b/c"


class JoiningMapi(MiniMapi):
    """Has `send_many`; what it refuses is in `refused`, by payload."""

    def __init__(self, path: Any) -> None:
        self.refused: dict[bytes, list[object]] = {}
        super().__init__(path)
        self.limits["in_flight"] = 256
        self.handlers[SEND_MANY] = self.send_many

    def hello_body(self) -> dict[str, object]:
        return {**super().hello_body(), "features": [FEATURE_SEND_MANY]}

    def send_many(self, _identity: bytes, request: Request) -> Answer:
        rows: Any = request.body["sends"]
        assert len(rows) == len(request.blobs)
        for (request_id, topic, *_), payload in zip(rows, request.blobs, strict=True):
            if payload not in self.refused:
                self.sends[request_id] = (topic, payload)
        return {"results": [self.refused.get(payload, ["", "", 0, False]) for payload in request.blobs]}

    def joined(self) -> list[int]:
        """How many sends each request had."""
        return [len(one.blobs) for one in self.requests if one.method in ("send", SEND_MANY)]


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[JoiningMapi, MessagingClient]]:
    with short_directory() as directory:
        server = JoiningMapi(directory / "apps")
        try:
            async with MessagingClient.connect(server.endpoint) as client:
                yield server, client
        finally:
            server.close()


@both_loops()
async def test_what_is_sent_at_once_goes_in_one_request() -> None:
    async with connected() as (server, client):
        count = MAX_SENDS + 6
        payloads = [b"%d" % number for number in range(count)]
        ids = await asyncio.gather(*(client.send(TOPIC, one, meta=b"m") for one in payloads))
        assert [server.sends[one][1] for one in ids] == payloads
        assert server.joined() == [MAX_SENDS, 6]
        rows: Any = server.requests[-1].body["sends"]
        assert rows[-1] == [ids[-1], TOPIC, b"m", False, 0]
        assert await client.send(TOPIC, b"alone") in server.sends
        assert server.methods()[-1] == "send"


@both_loops()
async def test_a_send_that_is_refused_does_not_keep_the_others() -> None:
    async with connected() as (server, client):
        server.refused = {b"one": ["busy", "too many sends wait", 200, False]}
        first, second = await asyncio.gather(
            client.send(TOPIC, b"one"), client.send(TOPIC, b"two"), return_exceptions=True
        )
        assert isinstance(first, BusyError)
        assert (first.message, first.retry_after_ms, first.retriable) == ("too many sends wait", 200, True)
        assert isinstance(second, bytes)
        assert second in server.sends


@both_loops()
async def test_what_would_fail_or_fill_a_request_goes_alone() -> None:
    async with connected() as (server, client):
        long = TOPIC + "x" * 2000
        sends = (
            client.send(TOPIC, b"one"),
            client.send(TOPIC, b"meta", meta=bytes(65)),
            client.send(TOPIC, b"topic" + bytes(10), request_id=bytes(16)),
            client.send("/a/1/é/c", b"not ascii"),
            client.send(long, b"a long topic"),
            client.send(TOPIC, bytes(MAX_JOINED + 1)),
            client.send(TOPIC, b"two"),
        )
        await asyncio.gather(*sends, return_exceptions=True)
        by_method = [
            (one.method, list(one.blobs)) for one in server.requests if one.method in ("send", SEND_MANY)
        ]
        assert (SEND_MANY, [b"one", b"topic" + bytes(10), b"two"]) in by_method
        assert len(by_method) == 5, "each of the others alone"


@both_loops()
async def test_a_request_stays_below_its_bytes() -> None:
    async with connected() as (server, client):
        payload = bytes(MAX_JOINED)
        fit = MAX_SEND_BYTES // MAX_JOINED
        await asyncio.gather(*(client.send(TOPIC, payload) for _ in range(fit + 1)))
        assert server.joined() == [fit, 1]


@both_loops()
async def test_each_waits_as_long_as_it_says() -> None:
    async with connected() as (server, client):
        usual = server.handlers[SEND_MANY]
        server.handlers[SEND_MANY] = server.handlers["send"] = lambda _identity, _request: None
        short = [asyncio.create_task(client.send(TOPIC, b"s%d" % n, timeout=0.1)) for n in range(2)]
        long = [asyncio.create_task(client.send(TOPIC, b"l%d" % n)) for n in range(2)]
        for one in await asyncio.gather(*short, return_exceptions=True):
            assert isinstance(one, DeadlineError)
        await until(lambda: server.joined() == [2, 2])
        server.handlers[SEND_MANY] = usual
        server.stop()
        server.start()
        assert [server.sends[one][1] for one in await asyncio.gather(*long)] == [b"l0", b"l1"], "repeated"


@both_loops()
async def test_one_that_gives_up_leaves_the_others() -> None:
    async with connected() as (server, client):
        held: list[tuple[bytes, Request]] = []
        server.handlers[SEND_MANY] = lambda identity, request: held.append((identity, request))
        sends = [asyncio.create_task(client.send(TOPIC, b"%d" % n)) for n in range(3)]
        await until(lambda: bool(held))
        sends[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await sends[0]
        ((identity, request),) = held
        server.answer(identity, request, server.send_many(identity, request))
        assert [server.sends[one][1] for one in await asyncio.gather(*sends[1:])] == [b"1", b"2"]


@both_loops()
async def test_what_is_given_up_while_the_server_is_away_is_not_sent_later() -> None:
    """A caller that tries again under another id would have sent it twice."""
    async with connected() as (server, client):
        server.stop()
        await until(lambda: not client.connected)
        sends = [asyncio.create_task(client.send(TOPIC, b"%d" % n)) for n in range(2)]
        await asyncio.sleep(0)  # they have begun
        for one in sends:
            one.cancel()
        await asyncio.wait(sends)
        server.start()
        last = await client.send(TOPIC, b"last")
        assert server.sends == {last: (TOPIC, b"last")}


@both_loops()
async def test_what_is_given_up_while_it_waits_for_a_slot_is_not_sent_later() -> None:
    async with connected() as (server, client):
        held: list[tuple[bytes, Request]] = []
        server.handlers[SEND_MANY] = lambda identity, request: held.append((identity, request))
        count = 256
        sends = [asyncio.create_task(client.send(TOPIC, b"%d" % n)) for n in range(count + 2)]
        await until(lambda: len(held) == count // MAX_SENDS)
        for one in sends[count:]:
            one.cancel()
        await asyncio.wait(sends[count:])
        server.handlers[SEND_MANY] = server.send_many
        for identity, request in held:
            server.answer(identity, request, server.send_many(identity, request))
        await asyncio.gather(*sends[:count])
        await client.send(TOPIC, b"last")
        given_up = {b"%d" % (count + n) for n in range(2)}
        assert not given_up & {payload for _, payload in server.sends.values()}


@both_loops()
async def test_each_gets_the_failure_of_the_whole() -> None:
    async with connected() as (server, client):

        def refuse(_identity: bytes, _request: Request) -> Answer:
            raise IpcError(ErrorCode.BAD_REQUEST, "malformed")

        server.handlers[SEND_MANY] = refuse
        first, second = await asyncio.gather(
            *(client.send(TOPIC, b"%d" % n) for n in range(2)), return_exceptions=True
        )
        assert isinstance(first, BadRequestError)
        assert isinstance(second, BadRequestError)
        assert first is not second, "each with its own traceback"
        server.handlers[SEND_MANY] = lambda _identity, _request: {"results": [["", "", 0, False]]}
        for one in await asyncio.gather(
            *(client.send(TOPIC, b"%d" % n) for n in range(2)), return_exceptions=True
        ):
            assert isinstance(one, BadRequestError)
            assert "1 results for 2 sends" in one.message


@both_loops()
async def test_closing_ends_what_waits() -> None:
    async with connected() as (server, client):
        server.handlers[SEND_MANY] = lambda _identity, _request: None
        sends = [asyncio.create_task(client.send(TOPIC, b"%d" % n)) for n in range(2)]
        await until(lambda: SEND_MANY in server.methods())
        await client.close()
        for one in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(one, ClosedError)


@both_loops()
async def test_a_timeout_of_the_wrong_type_is_the_callers_fault() -> None:
    async with connected() as (_, client):
        for one in await asyncio.gather(
            *(client.send(TOPIC, b"%d" % n, timeout="soon") for n in range(2)),  # type: ignore[arg-type]
            return_exceptions=True,
        ):
            assert isinstance(one, TypeError)
