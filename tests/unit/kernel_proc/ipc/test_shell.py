"""The dispatcher: limits, deadlines, order and the one answer to everything that goes wrong."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Sequence

import pytest
import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import NO_CORRELATION, NO_REPLY, Reply, decode_reply, encode_request
from ipc_schema.server import Answer, Call, Route
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.shell import TrioRequests
from tests.support.mock_clock import mock_clock_test

INSTANCE = bytes(range(16))


class Client:
    """Sends requests into a dispatcher and keeps its answers by correlation id."""

    def __init__(self, dispatcher: TrioRequests, identity: bytes = b"id") -> None:
        self.gone = False
        self.identity = identity
        self.uid: int | None = 1000
        self.replies: list[Reply] = []
        self._dispatcher = dispatcher
        dispatcher.socket = self  # type: ignore[assignment]

    def send(self, frames: Sequence[bytes]) -> bool:
        if self.gone:
            self._dispatcher._gone(self.identity)
            return False
        assert frames[0] == self.identity
        self.replies.append(decode_reply(frames[1:]))
        return True

    def ask(
        self, method: str, *, budget_ms: int = 0, flags: int = 0, body: dict[str, object] | None = None
    ) -> bytes:
        correlation_id = os.urandom(16)
        frames = encode_request(correlation_id, method, body, budget_ms=budget_ms, flags=flags)
        self._dispatcher.server.receive([self.identity, *frames], self.uid)
        return correlation_id

    def codes(self) -> list[str]:
        return [str(reply.error.code) if reply.error else "ok" for reply in self.replies]


class Methods:
    """Methods to be called, and a trace of what they did."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.consumers = Consumers(lambda: "anonymous", lambda _name: False)

    def hello(self, call: Call) -> Answer:
        self.consumers.hello(call.caller.identity, "someone", "tool")
        return {}, ()

    def now(self, call: Call) -> Answer:
        return {"consumer": call.client_name}, ()

    async def slow(self, call: Call) -> Answer:
        self.trace.append(f"start {call.request.body.get('n')}")
        await trio.sleep(1)
        self.trace.append(f"end {call.request.body.get('n')}")
        return {"n": call.request.body.get("n")}, ()

    def maybe(self, call: Call) -> Answer | Awaitable[Answer]:
        if call.request.body.get("wait"):
            return self.slow(call)
        self.trace.append(f"at once {call.request.body.get('n')}")
        return {"n": call.request.body.get("n")}, ()

    def refuses(self, _call: Call) -> Answer:
        raise IpcError(ErrorCode.CONFLICT, "no", detail={"a": 1})

    def fails(self, _call: Call) -> Answer:
        raise ZeroDivisionError("secret inside")

    def too_much(self, _call: Call) -> Answer:
        return {"x": b"x" * (2 << 20)}, ()

    def dispatcher(self, **options: object) -> TrioRequests:
        return TrioRequests(
            "requests",
            INSTANCE,
            {
                "hello": Route(self.hello, needs_hello=False),
                "now": Route(self.now),
                "slow": Route(self.slow),
                "ordered": Route(self.slow, ordered=True),
                "maybe": Route(self.maybe, ordered=True, may_wait=True),
                "refuses": Route(self.refuses),
                "fails": Route(self.fails),
                "too_much": Route(self.too_much),
            },
            consumers=self.consumers,
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture
def methods() -> Methods:
    return Methods()


@mock_clock_test
async def test_answers_and_errors(methods: Methods) -> None:
    client = Client(methods.dispatcher())
    client.ask("now")
    client.ask("hello")
    last = client.ask("now")
    client.ask("refuses")
    client.ask("missing")
    assert client.codes() == ["not_ready", "ok", "ok", "conflict", "unknown_method"]
    assert client.replies[2] == Reply(last, 0, INSTANCE, {"consumer": "someone"}, [])
    refused = client.replies[3].error
    assert refused is not None
    assert refused.detail == {"a": 1}


@mock_clock_test
async def test_an_internal_error_is_reported_by_reference_only(
    methods: Methods, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(methods.dispatcher())
    client.ask("hello")
    with caplog.at_level(logging.ERROR):
        client.ask("fails")
    error = client.replies[1].error
    assert error is not None
    assert error.code == "internal"
    assert "secret" not in error.message
    assert error.detail["reference"] == caplog.records[0].named_values["reference"]  # type: ignore[attr-defined]
    client.ask("too_much")
    assert client.codes()[-1] == "too_large"


@mock_clock_test
async def test_ordered_requests_wait_for_each_other_and_others_do_not(methods: Methods) -> None:
    dispatcher = methods.dispatcher()
    client = Client(dispatcher)
    client.ask("hello")
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run)
        before = trio.current_time()
        for number in range(3):
            client.ask("ordered", body={"n": number})
        client.ask("slow", body={"n": "x"})
        while len(client.replies) < 5:
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert 2.9 < trio.current_time() - before < 3.5
    ordered = [line for line in methods.trace if "x" not in line]
    assert ordered == ["start 0", "end 0", "start 1", "end 1", "start 2", "end 2"]
    assert methods.trace.index("end x") < methods.trace.index("start 2")


@mock_clock_test
async def test_the_budget_bounds_work_before_and_after_its_start(methods: Methods) -> None:
    dispatcher = methods.dispatcher()
    client = Client(dispatcher)
    client.ask("hello")
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run)
        client.ask("ordered", body={"n": 1})
        unstarted = client.ask("ordered", budget_ms=900, body={"n": 2})
        abandoned = client.ask("slow", budget_ms=500, body={"n": 3})
        while len(client.replies) < 4:
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    errors = {reply.correlation_id: reply.error for reply in client.replies}
    for correlation_id in (unstarted, abandoned):
        error = errors[correlation_id]
        assert error is not None
        assert error.code == "deadline_exceeded"
    assert "start 2" not in methods.trace
    assert "end 3" not in methods.trace


@mock_clock_test
async def test_requests_in_flight_are_bounded_per_consumer(methods: Methods) -> None:
    dispatcher = methods.dispatcher(in_flight=3)
    client = Client(dispatcher)
    client.ask("hello")
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run)
        for _ in range(5):
            client.ask("slow")
        assert client.codes() == ["ok", "busy", "busy"]
        client.ask("now")  # takes no time, so no place either
        while len(client.replies) < 7:
            await trio.sleep(0.1)
        assert client.codes() == ["ok", "busy", "busy", "ok", "ok", "ok", "ok"]
        client.ask("slow")
        assert client.codes()[-1] == "ok"
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_a_request_without_reply_takes_no_place_from_those_with_one(methods: Methods) -> None:
    dispatcher = methods.dispatcher(in_flight=2)
    client = Client(dispatcher)
    client.ask("hello")
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run)
        for _ in range(2):
            client.ask("slow", flags=NO_REPLY)
            client.ask("slow")
        assert client.codes() == ["ok"]
        client.ask("slow", flags=NO_REPLY)
        assert client.codes() == ["ok", "busy"], "they are bounded, too"
        while len(client.replies) < 4:
            await trio.sleep(0.1)
        client.ask("slow", flags=NO_REPLY)
        assert client.codes() == ["ok", "busy", "ok", "ok"]
        nursery.cancel_scope.cancel()


@mock_clock_test
async def test_success_can_go_unanswered_errors_cannot(methods: Methods) -> None:
    client = Client(methods.dispatcher())
    client.ask("hello", flags=NO_REPLY)
    client.ask("now", flags=NO_REPLY)
    client.ask("refuses", flags=NO_REPLY)
    assert client.codes() == ["conflict"]


@mock_clock_test
async def test_only_listed_uids_may_ask(methods: Methods) -> None:
    dispatcher = methods.dispatcher(allowed_uids=frozenset({1000}))
    client = Client(dispatcher)
    client.ask("hello")
    for uid in (1001, 0, None):
        client.uid = uid
        client.ask("now")
    assert client.codes() == ["ok", *["unauthorised"] * 3]
    dispatcher.server.allow_all()
    client.ask("now")
    assert client.codes()[-1] == "ok"


@mock_clock_test
async def test_garbage_is_answered_and_counted(methods: Methods) -> None:
    dispatcher = methods.dispatcher()
    client = Client(dispatcher)
    for frames in ([], [b""], [b"LD1"], [b"junk", b"junk"]):
        dispatcher.server.receive([client.identity, *frames], 1000)
    assert client.codes() == ["bad_request"] * 4
    assert {reply.correlation_id for reply in client.replies} == {NO_CORRELATION}
    counted = {code: count for code, count in dispatcher.server.counters.errors.items() if count}
    assert counted == {"bad_request": 4}


@mock_clock_test
async def test_a_client_that_left_is_forgotten(methods: Methods) -> None:
    client = Client(methods.dispatcher())
    client.ask("hello")
    client.gone = True
    client.ask("now")
    client.gone = False
    client.ask("now")
    assert client.codes() == ["ok", "not_ready"]


@mock_clock_test
async def test_what_need_not_wait_is_answered_at_once_and_in_order(methods: Methods) -> None:
    dispatcher = methods.dispatcher()
    client = Client(dispatcher)
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run)
        client.ask("hello")
        client.ask("maybe", body={"n": 1})
        assert [reply.body.get("n") for reply in client.replies[1:]] == [1], "without a task"
        client.ask("maybe", body={"n": 2, "wait": True})
        client.ask("maybe", body={"n": 3})
        client.ask("maybe", body={"n": 4, "wait": True})
        client.ask("maybe", body={"n": 5})
        await trio.sleep(3)
        client.ask("maybe", body={"n": 6})
        nursery.cancel_scope.cancel()
    assert [reply.body.get("n") for reply in client.replies[1:]] == [1, 2, 3, 4, 5, 6]
    assert methods.trace == [
        "at once 1", "start 2", "end 2", "at once 3", "start 4", "end 4", "at once 5", "at once 6"
    ]  # fmt: skip
    assert dispatcher.server.counters.in_flight == 0


@mock_clock_test
async def test_what_is_begun_can_be_finished(methods: Methods) -> None:
    dispatcher = methods.dispatcher(in_flight=1)
    client, other = Client(dispatcher, b"a"), Client(dispatcher, b"b")
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatcher.run)
        for one in (client, other):
            dispatcher.socket = one  # type: ignore[assignment]
            one.ask("hello")
        dispatcher.socket = client  # type: ignore[assignment]
        client.ask("maybe", body={"n": 1, "wait": True})
        client.ask("maybe", body={"n": 2})
        assert methods.trace == [], "the first one waits in its task, the second was refused before it began"
        assert client.codes() == ["ok", "busy"]
        await trio.sleep(2)
        client.ask("maybe", body={"n": 3, "wait": True}, budget_ms=500)
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert client.codes() == ["ok", "busy", "ok", "deadline_exceeded"]
    assert methods.trace == ["start 1", "end 1", "start 3"]
