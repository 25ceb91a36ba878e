"""Messages on their way out while no server stores them: each is tried again, and nothing is a flood."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nats.js import api
from nats.js.errors import NoStreamResponseError

from logos_bridge import shard_stream
from logos_bridge.figures import BridgeFigures
from logos_bridge.jetstream import JetStreamLink
from logos_bridge.shard_stream import Publication, ShardStream
from tests.support.aio import asyncio_test

MESSAGES = 1_500
ROUNDS = 20


class Leaderless:
    """Stands for the link: refuses until there is a leader, as a cluster does that elects one."""

    def __init__(self) -> None:
        self.js = self
        self.connected = True
        self.counters = SimpleNamespace(retries=0)
        self.leads = False
        self.tries: Counter[str] = Counter()

    async def up(self) -> None:
        """There is a connection."""

    async def publish_async(
        self, subject: str, _payload: bytes, *, headers: object
    ) -> asyncio.Future[api.PubAck]:
        self.tries[subject] += 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[api.PubAck] = loop.create_future()
        if self.leads:
            loop.call_soon(answer.set_result, api.PubAck(stream="s", seq=sum(self.tries.values())))
        else:
            loop.call_soon(answer.set_exception, NoStreamResponseError())
        return answer


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
