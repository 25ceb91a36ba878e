"""relay.publish_many as a consumer calls it, over a relay that the test scripts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Request
from ipc_schema.kernel.relay import MAX_PUBLISH_BYTES, RELAY_PUBLISH_MANY, RelayPublishManyReply
from ipc_schema.server import ANSWER_MARGIN, Call, Caller, ServerCounters
from kernel_proc.ipc.consumers import Consumer
from kernel_proc.ipc.methods.relay import relay_routes
from tests.support.mock_clock import mock_clock_test
from tests.unit.kernel_proc.test_publishing import MESSAGE, House

Row = tuple[Any, ...]
PLAIN: Row = (MESSAGE.content_topic, 3, 7, b"", 0, False, b"", False)
BUDGET = 10.0


async def ask(
    house: House, *messages: tuple[Row, bytes], counters: ServerCounters | None = None, **more: object
) -> tuple[Row, ...]:
    """The results of a request for these messages with their payloads."""
    route = relay_routes(house.publishing, None)[RELAY_PUBLISH_MANY]
    body = {"messages": [list(row) for row, _ in messages]} | more
    request = Request(bytes(16), RELAY_PUBLISH_MANY, 0, 0, body, [payload for _, payload in messages])
    consumer = Consumer("x", "tool", named=True)
    deadline = trio.current_time() + BUDGET
    call = Call(request, Caller(b""), consumer, deadline, route, counters=counters)
    result = route.handler(call)
    done = result if isinstance(result, tuple) else await result
    return RelayPublishManyReply.from_body(done[0]).results


@mock_clock_test
async def test_each_message_has_its_own_outcome_and_its_own_cause() -> None:
    house = House()
    house.shards.acquire("a", [3])
    results = await ask(
        house,
        (PLAIN, b"a"),
        (PLAIN, b""),
        ((*PLAIN[:1], 8, *PLAIN[2:]), b"a shard that does not exist"),
        (PLAIN, bytes(20_000)),
        (PLAIN, b"a"),
        ((*PLAIN[:-1], True), b"a"),
        ((*PLAIN[:2], 0, *PLAIN[3:]), b"unstamped"),
    )
    assert [(code, peers, duplicate) for code, _, _, _, peers, duplicate in results] == [
        ("", 1, False),
        ("bad_request", 0, False),
        ("bad_request", 0, False),
        ("too_large", 0, False),
        ("", 0, True),
        ("", 1, True),
        ("", 1, False),
    ]
    assert [text for _, text, *_ in results][1:4] == [
        "payload is empty",
        "shard 8 does not exist: the network has 8 (from 0)",
        "Message size exceeded maximum of 10000 bytes",
    ]
    assert [stamp for _, _, _, stamp, *_ in results] == [7, 0, 0, 0, 7, 7, 99]
    events = house.stream(3)
    assert [event.message_hash for event in events] == [results[0][2], results[6][2]]
    assert len(house.relay.sent) == 3


@mock_clock_test
async def test_without_a_peer_hash_and_timestamp_are_known() -> None:
    house = House()
    house.relay.peers = 0
    ((code, text, digest, timestamp, peers, duplicate),) = await ask(house, (PLAIN, b"a"))
    assert (code, text, timestamp, peers, duplicate) == ("no_peers", "no peer on shard 3", 7, 0, False)
    house.relay.peers = 2
    assert await ask(house, (PLAIN, b"a")) == (("", "", digest, 7, 2, True),)


@mock_clock_test
async def test_they_go_out_in_order_also_when_the_relay_has_to_wait() -> None:
    house = House()
    house.relay.delay = 1.0
    results = await ask(house, *((PLAIN, b"%d" % number) for number in range(5)))
    assert [code for code, *_ in results] == [""] * 5
    assert [data[2:3] for _, data in house.relay.sent] == [b"%d" % number for number in range(5)]
    assert trio.current_time() == pytest.approx(5.0)


@mock_clock_test
async def test_what_the_budget_does_not_suffice_for_is_late_and_the_rest_has_its_outcome() -> None:
    house = House()
    house.relay.delay = 4.0
    results = await ask(house, *((PLAIN, b"%d" % number) for number in range(5)))
    # The third one is under way when the budget ends: the relay has it and bounds the waiting itself.
    assert [code for code, *_ in results] == ["", "", "", "deadline_exceeded", "deadline_exceeded"]
    assert len(house.relay.sent) == 3
    assert trio.current_time() >= BUDGET - ANSWER_MARGIN


@mock_clock_test
async def test_a_fault_of_one_is_not_the_others() -> None:
    house = House()
    begin = house.relay.begin_publish

    def faulty(topic: str, data: bytes, **more: Any) -> Any:
        if b"bad" in data:
            raise RuntimeError("a fault")
        return begin(topic, data, **more)

    house.relay.begin_publish = faulty  # type: ignore[method-assign]
    results = await ask(house, (PLAIN, b"a"), (PLAIN, b"bad"), (PLAIN, b"c"))
    assert [code for code, *_ in results] == ["", "internal", ""]
    assert "in its log under" in results[1][1]


@mock_clock_test
async def test_an_error_counts_like_that_of_a_request() -> None:
    house, counters = House(), ServerCounters()
    house.relay.delay = 6.0
    await ask(house, *((PLAIN, b"%d" % number) for number in range(4)), (PLAIN, b""), counters=counters)
    assert counters.errors == {"deadline_exceeded": 3}
    house.relay.delay = 0.0
    await ask(house, (PLAIN, b""), (PLAIN, b"x"), (PLAIN, b""), counters=counters)
    assert counters.errors == {"deadline_exceeded": 3, "bad_request": 2}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([(PLAIN, b"a"), (PLAIN[:-1], b"too short")], "bad_request"),
        ([(PLAIN, b"a"), ((*PLAIN[:3], bytes(65), *PLAIN[4:]), b"meta")], "bad_request"),
        ([(PLAIN, b"a"), ((*PLAIN[:1], -1, *PLAIN[2:]), b"shard")], "bad_request"),
        ([(PLAIN, b"a"), ((*PLAIN[:-1], 1), b"force")], "bad_request"),
        ([(PLAIN, b"%d" % number) for number in range(65)], "bad_request"),
        ([(PLAIN, bytes(MAX_PUBLISH_BYTES // 2)), (PLAIN, bytes(MAX_PUBLISH_BYTES // 2 + 1))], "too_large"),
    ],
)
def test_what_is_refused_as_a_whole_sends_nothing(messages: list[tuple[Row, bytes]], code: str) -> None:
    @mock_clock_test
    async def check() -> None:
        house = House()
        with pytest.raises(IpcError) as refused:
            await ask(house, *messages)
        assert refused.value.code == ErrorCode(code)
        assert house.relay.sent == []

    check()


@mock_clock_test
async def test_each_message_needs_its_payload() -> None:
    house = House()
    with pytest.raises(IpcError, match="1 blobs for 2 messages"):
        await ask(house, (PLAIN, b"a"), messages=[list(PLAIN)] * 2)
    assert house.relay.sent == []


@mock_clock_test
async def test_nothing_is_an_answer_to_nothing() -> None:
    assert await ask(House()) == ()
