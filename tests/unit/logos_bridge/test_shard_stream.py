"""Messages on their way out while no server stores them: each is tried again, and nothing is a flood."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.errors import OutboundBufferLimitError

from logos_bridge import shard_stream
from logos_bridge.ack_inbox import Answered
from logos_bridge.figures import BridgeFigures
from logos_bridge.jetstream import JetStreamLink
from logos_bridge.shard_stream import Publication, ShardStream
from tests.support.aio import asyncio_test

MESSAGES = 1_500
ROUNDS = 20


class Leaderless:
    """Stands for the link: refuses until there is a leader, as a cluster does that elects one."""

    def __init__(self) -> None:
        self.acks = self
        self.connected = True
        self.counters = SimpleNamespace(retries=0)
        self.leads = False
        self.tries: Counter[str] = Counter()
        self.tickets = map(str, itertools.count(1))
        self.waiting: dict[str, Answered] = {}
        self.sent: list[str] = []
        """Tickets of what was published."""

    async def up(self) -> None:
        """There is a connection."""

    def expect(self, answered: Answered) -> str:
        ticket = next(self.tickets)
        self.waiting[ticket] = answered
        return ticket

    def forget(self, ticket: str) -> None:
        self.waiting.pop(ticket, None)

    async def publish(self, ticket: str, subject: str, _payload: bytes, _headers: object) -> None:
        self.tries[subject] += 1
        self.sent.append(ticket)
        asyncio.get_running_loop().call_soon(self.answer, ticket)

    def answer(self, ticket: str, refusal: str = "no leader") -> None:
        """Answer a message that is not given up."""
        if (answered := self.waiting.pop(ticket, None)) is not None:
            answered("" if self.leads else refusal, False)


class Silent(Leaderless):
    """A server that takes everything and tells nothing until it is asked to answer."""

    async def publish(self, ticket: str, subject: str, _payload: bytes, _headers: object) -> None:
        self.tries[subject] += 1
        self.sent.append(ticket)


class Blocked(Silent):
    """A connection whose buffer is full: publishing waits, until the connection is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked = asyncio.Event()
        self.fails = True

    async def publish(self, ticket: str, subject: str, payload: bytes, headers: object) -> None:
        await super().publish(ticket, subject, payload, headers)
        await self.blocked.wait()
        if self.fails:
            raise OutboundBufferLimitError


@asyncio_test()
async def test_a_cluster_without_a_leader_is_not_flooded_and_gets_everything_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Leaderless()
    rounds = 0

    def backoff(_failures: int) -> float:
        nonlocal rounds
        rounds += 1
        link.leads = rounds > ROUNDS
        return 0.0

    monkeypatch.setattr(shard_stream, "backoff", backoff)
    stream = ShardStream(cast("JetStreamLink", link), BridgeFigures(), 0, "m", 120.0, 32 << 20)

    async def read() -> None:
        for number in range(1, MESSAGES + 1):
            await stream.publish(Publication(b"e", number, number, f"m.{number}", b"x", {}))

    running: list[asyncio.Task[Any]] = [asyncio.create_task(stream.run()), asyncio.create_task(read())]
    await running[1]
    while not stream.idle:
        await asyncio.sleep(0)
    running[0].cancel()
    assert (stream.position.epoch, stream.position.seq) == (b"e", MESSAGES)
    assert set(link.tries) == {f"m.{number}" for number in range(1, MESSAGES + 1)}
    # Each round tries what the window lets through before the first refusal is known, not all that waits.
    assert sum(link.tries.values()) - MESSAGES < 128 + ROUNDS * 64


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


@asyncio_test()
async def test_what_is_lost_with_its_connection_is_published_again_and_a_late_answer_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_stream, "backoff", lambda _failures: 0.0)
    link = Silent()
    link.leads = True
    stream = ShardStream(cast("JetStreamLink", link), BridgeFigures(), 0, "m", 120.0, 32 << 20)
    running = asyncio.create_task(stream.run())
    for number in (1, 2):
        await stream.publish(Publication(b"e", number, number, f"m.{number}"))
    stream.expire(lost=False)
    await settled()
    assert link.sent == ["1", "2"], "they still have time"
    link.answer("2")
    assert stream.position.seq == 0, "the first one is not stored yet"
    stream.expire(lost=True)
    link.answer("1")
    await settled()
    assert (stream.position.seq, link.tries["m.1"], link.tries["m.2"]) == (0, 2, 1)
    link.answer(link.sent[-1])
    assert (stream.position.seq, stream.idle) == (2, True)
    running.cancel()


@asyncio_test()
@pytest.mark.parametrize("fails", [False, True])
async def test_an_answer_that_comes_while_its_message_is_being_published_is_counted_once(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The library may write a message and then wait for room; its answer, or its connection's end, is here
    first."""
    monkeypatch.setattr(shard_stream, "backoff", lambda _failures: 0.0)
    link = Blocked()
    link.fails = fails
    stream = ShardStream(cast("JetStreamLink", link), BridgeFigures(), 0, "m", 120.0, 32 << 20)
    running = asyncio.create_task(stream.run())
    first = asyncio.create_task(stream.publish(Publication(b"e", 1, 1, "m.1")))
    await settled()
    stream.expire(lost=True)
    link.answer(link.sent[0])  # refused: it cannot be repeated as long as it is being published
    await settled()
    link.blocked.set()
    link.fails = False
    await first
    link.leads = True
    await settled()
    assert len(link.sent) == 2
    link.answer(link.sent[-1])
    assert (stream.position.seq, stream.idle, stream.congestion.under_way) == (1, True, 0)
    running.cancel()
