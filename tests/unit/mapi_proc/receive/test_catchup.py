"""Catch-up over stores that the test scripts, with a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ipc_schema.kernel.store import StoredMessage
from ipc_schema.message import WakuMessage
from mapi_proc.kernel_link.tracker import Live, Missed, StreamTracker
from mapi_proc.receive.catchup import (
    AFTER_NS,
    DOUBT_NOTIFY_S,
    DOUBT_S,
    LATE_S,
    MAX_GAPS,
    OVERLAP_NS,
    PATIENCE_S,
    SETTLE_NS,
    CatchUp,
    CatchUpHooks,
    Gap,
)
from mapi_proc.receive.fetching import chunked
from mapi_proc.receive.stores import StoreHistory, StorePeer
from tests.support.aio import asyncio_test

S = 1_000_000_000
GAP = Missed(900 * S, 910 * S, "no mesh peers")


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Stores(StoreHistory, StorePeer):
    """One store: what it has, by content topic; every query is recorded. It is its own history."""

    connected = 3600.0
    others: Sequence[Stores] = ()
    held_of_the_time = 0
    """What `count` says of any time: the evidence that it was there."""

    def __init__(self) -> None:
        self.name = str(id(self))
        self.held: dict[str, list[int]] = {}
        self.there = True
        self.queries: list[tuple[str, ...]] = []
        self.windows: set[tuple[int, int]] = set()
        self.bodies: list[list[bytes]] = []

    another_away = False

    def stores(self, shard: int) -> list[StorePeer]:
        return [self, *self.others]

    async def away(self, shard: int, now_s: float) -> bool:
        return self.another_away

    async def count(self, start_ns: int, end_ns: int, most: int) -> int | None:
        return min(most, self.held_of_the_time)

    async def hashes(self, topics: Sequence[str], start_ns: int, end_ns: int) -> list[bytes] | None:
        assert topics
        self.queries.append(tuple(topics))
        self.windows.add((start_ns, end_ns))
        return [digest(n) for topic in topics for n in self.held.get(topic, ())] if self.there else None

    async def messages(self, hashes: Sequence[bytes]) -> list[StoredMessage] | None:
        assert hashes, "never an empty hash list"
        self.bodies.append(list(hashes))
        return [StoredMessage(found, "/waku/2/rs/0/0", WakuMessage(b"x", "/t/1/a/b")) for found in hashes]


class World:
    def __init__(self, setting: str | float, topics: set[str]) -> None:
        self.stores = Stores()
        self.now = 20.0
        self.step = 0
        self.known: set[bytes] = set()
        self.delivered: list[bytes] = []
        self.notified: list[Gap] = []
        self.closed = asyncio.Event()
        self.catchup = CatchUp(
            setting,
            self.stores,
            clock=lambda: self.now,
            steady=lambda: 1000 * S + int(self.now * S),
            label=lambda instant: instant + self.step,
            hooks=CatchUpHooks(
                topics_on=lambda _shard: topics,
                is_known=self.known.__contains__,
                room=self.room,
                deliver=self.deliver,
                notify=self.notified.append,
                closed=lambda _shard: self.closed.set(),
            ),
        )
        self.catchup.set_online(True)

    async def room(self) -> None:
        """The disk always keeps up here."""

    def deliver(self, shard: int, message: StoredMessage) -> None:
        self.known.add(message.message_hash)
        self.delivered.append(message.message_hash)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.catchup.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def topics(count: int) -> set[str]:
    return {f"/app/1/topic-{number}/proto" for number in range(count)}


@asyncio_test()
async def test_a_gap_is_asked_for_in_portions_and_only_the_unknown_is_fetched() -> None:
    world = World("on-gap", topics(25))
    world.stores.held = {"/app/1/topic-3/proto": [1, 2], "/app/1/topic-20/proto": [3]}
    world.known.add(digest(2))
    async with running(world):
        world.catchup.add(0, GAP)
        assert world.catchup.oldest(0) == GAP.from_ns
        await world.closed.wait()
    assert [len(query) for query in world.stores.queries] == [10, 10, 5]
    assert world.stores.windows == {(GAP.from_ns - OVERLAP_NS, GAP.to_ns + AFTER_NS)}
    assert sorted(world.delivered) == [digest(1), digest(3)]
    assert world.catchup.oldest(0) is None
    assert world.notified == []


@asyncio_test()
async def test_without_a_store_the_apps_are_informed_and_it_is_tried_again() -> None:
    world = World("on-gap", topics(1))
    world.stores.there = False
    async with running(world):
        world.catchup.add(0, GAP)
        while not world.stores.queries:
            await asyncio.sleep(0)
        world.now += PATIENCE_S - 0.1
        world.catchup.tick({0})
        assert world.notified == []
        world.now += 0.1
        world.catchup.tick({0})
        world.catchup.tick({0})
        assert len(world.notified) == 1, "once"
        assert world.catchup.oldest(0) == GAP.from_ns, "the good moment stays before it"
        world.stores.there = True
        world.stores.held = {"/app/1/topic-0/proto": [7]}
        world.catchup.wake()
        await world.closed.wait()
    assert world.delivered == [digest(7)]


async def asked(world: World, times: int) -> None:
    """Wait until stores were asked so many times, and the answer is worked off."""
    async with asyncio.timeout(5):
        while len(world.stores.queries) < times:
            await asyncio.sleep(0)
    await asyncio.sleep(0.01)


@asyncio_test()
async def test_what_comes_late_to_the_stores_is_asked_for_once_more() -> None:
    world = World("on-gap", topics(1))
    fresh = Missed(1010 * S, 1019 * S, "no mesh peers")
    world.stores.held = {"/app/1/topic-0/proto": [1]}
    async with running(world):
        world.catchup.add(0, fresh)
        await asked(world, 1)
        assert world.delivered == [digest(1)]
        assert world.catchup.oldest(0) == fresh.from_ns, "it stays open on disk"
        world.stores.held = {"/app/1/topic-0/proto": [1, 2]}
        world.now += PATIENCE_S
        world.catchup.tick({0})
        world.catchup.wake()
        await asyncio.sleep(0.01)
        assert len(world.stores.queries) == 1, "peers that appear change nothing for it"
        world.now = (fresh.to_ns + SETTLE_NS) / S - 1000
        world.catchup.set_online(True)
        await world.closed.wait()
    assert world.delivered == [digest(1), digest(2)]
    assert world.catchup.oldest(0) is None
    assert world.notified == [], "what is recovered is not reported as missed"


@asyncio_test()
async def test_gaps_of_a_flapping_link_are_asked_for_together() -> None:
    world = World("on-gap", topics(1))
    async with running(world):
        for number in range(5):
            at = 1010 + 2 * number
            world.now = at - 999.0
            world.catchup.add(0, Missed(at * S, (at + 1) * S, "no mesh peers"))
            await asked(world, number + 1)
            assert len(world.catchup) == 1
        assert world.catchup.oldest(0) == 1010 * S
        world.now += SETTLE_NS / S + 1
        world.catchup.set_online(True)
        await world.closed.wait()
    assert len(world.stores.queries) == 6
    assert min(world.stores.windows)[0] == 1010 * S - OVERLAP_NS


@asyncio_test()
async def test_the_policy_never_tells_and_asks_nothing() -> None:
    world = World("never", topics(3))
    async with running(world):
        world.catchup.add(0, GAP)
        await asyncio.sleep(0.01)
    assert len(world.notified) == 1
    assert world.stores.queries == []


@asyncio_test()
async def test_nothing_is_asked_while_the_kernel_is_away_or_the_shard_is_not_wanted() -> None:
    world = World("on-gap", topics(3))
    world.catchup.set_online(False)
    async with running(world):
        world.catchup.add(0, GAP)
        await asyncio.sleep(0.01)
        assert world.stores.queries == []
        world.catchup.forget({0})
        world.catchup.set_online(True)
        await asyncio.sleep(0.01)
    assert world.stores.queries == []


@asyncio_test()
async def test_a_connected_node_asks_nothing_in_an_hour_with_500_content_topics() -> None:
    world = World("on-gap", topics(500))
    instance, epoch, start = b"i" * 16, b"e" * 8, 1000 * S
    tracker = StreamTracker(None, start)
    async with running(world):
        for second in range(3600):
            seq = second + 1
            now = start + second * S
            if second % 10 == 0:
                tracker.leased(instance, epoch, 1, second, [(start, None)], now)
            assert tracker.live(instance, epoch, seq, now) is Live.DELIVER
            assert tracker.heartbeat(instance, epoch, seq, now, True) is Live.DROP
            world.now = 20.0 + second
            world.catchup.tick({0})
            for missed in tracker.missed:
                world.catchup.add(0, missed)
            tracker.missed.clear()
            if second % 100 == 0:
                await asyncio.sleep(0)
    assert world.stores.queries == []
    assert world.stores.bodies == []


@asyncio_test()
async def test_periodic_rounds_ask_for_the_time_since_the_last_one() -> None:
    world = World(60.0, topics(1))
    async with running(world):
        world.catchup.tick({0})
        world.now += 59.0
        world.catchup.tick({0})
        await asyncio.sleep(0)
        assert world.stores.queries == []
        world.now += 1.0
        world.catchup.tick({0})
        await world.closed.wait()
    (window,) = world.stores.windows
    assert window == (1020 * S - OVERLAP_NS, 1080 * S + AFTER_NS)


def test_portions() -> None:
    assert chunked(()) == []
    assert [len(part) for part in chunked(topics(11))] == [10, 1]


@asyncio_test()
async def test_gaps_that_no_store_closes_are_folded_when_there_are_many() -> None:
    world = World("on-gap", topics(1))
    world.stores.there = False
    async with running(world):
        for number in range(MAX_GAPS + 20):
            at = (100 + 400 * number) * S
            world.catchup.add(0, Missed(at, at + S, "no mesh peers"))
            await asked(world, number + 1)
        assert len(world.catchup) == MAX_GAPS
        assert world.catchup.oldest(0) == 100 * S, "nothing of them is given up"
        assert world.catchup.found == MAX_GAPS + 20


@pytest.mark.parametrize("step", [3600 * S, -3600 * S])
@asyncio_test()
async def test_stores_are_asked_by_the_wall_clock_of_now_for_a_gap_from_before_it_was_set(step: int) -> None:
    world = World("on-gap", topics(1))
    world.step = step
    async with running(world):
        world.catchup.add(0, GAP)
        await world.closed.wait()
    assert world.stores.windows == {(GAP.from_ns + step - OVERLAP_NS, GAP.to_ns + step + AFTER_NS)}


def restarted_store(world: World) -> Stores:
    """The store has come back together with us, and has nothing of the gap."""
    world.stores.connected = 1.0
    return world.stores


@asyncio_test()
async def test_what_a_restarted_store_lacks_comes_from_the_other_one() -> None:
    world = World("on-gap", topics(1))
    restarted_store(world).held = {"/app/1/topic-0/proto": [1]}
    async with running(world):
        world.catchup.add(0, GAP)
        await asked(world, 1)
        assert world.catchup.oldest(0) == GAP.from_ns, "its answer closes nothing"
        other = Stores()
        other.connected, other.held_of_the_time = 1.0, 9
        other.held = {"/app/1/topic-0/proto": [2]}
        world.stores.others = [other]
        world.catchup.wake()
        await world.closed.wait()
    assert sorted(world.delivered) == [digest(1), digest(2)]
    assert world.notified == []


@asyncio_test()
async def test_a_gap_for_which_no_store_was_there_is_asked_for_again_then_reported_then_given_up() -> None:
    world = World("on-gap", topics(1))
    restarted_store(world)
    async with running(world):
        world.catchup.add(0, GAP)
        await asked(world, 1)
        began = world.now
        for elapsed, sent in ((DOUBT_NOTIFY_S - 1, 0), (DOUBT_NOTIFY_S, 1), (DOUBT_S - 1, 1), (DOUBT_S, 1)):
            world.now = began + elapsed
            before = len(world.stores.queries)
            world.catchup.tick({0})
            world.catchup.wake()
            await asked(world, before + 1)
            assert len(world.notified) == sent
        await world.closed.wait()
    assert len(world.catchup) == 0


@pytest.mark.parametrize("there", [True, False])
@asyncio_test()
async def test_a_mere_suspicion_is_not_reported(there: bool) -> None:
    world = World("on-gap", topics(1))
    restarted_store(world).there = there
    async with running(world):
        world.catchup.add(0, GAP._replace(suspected=True))
        await asked(world, 1)
        world.now += DOUBT_S
        world.catchup.tick({0})
        world.stores.there = True
        world.catchup.wake()
        await world.closed.wait()
    assert world.notified == []


@asyncio_test()
async def test_a_store_that_was_away_is_asked_when_it_returns() -> None:
    """The network was parted: the store that answers was there, and heard its part only."""
    world = World("on-gap", topics(1))
    world.stores.held = {"/app/1/topic-0/proto": [1]}
    world.stores.another_away = True
    async with running(world):
        world.catchup.add(0, GAP)
        await asked(world, 1)
        assert world.catchup.oldest(0) == GAP.from_ns, "a restart asks again"
        world.now += DOUBT_NOTIFY_S
        world.catchup.tick({0})
        world.catchup.wake()
        await asyncio.sleep(0.01)
        assert len(world.stores.queries) == 1, "one that has answered is not asked again"
        other = Stores()
        other.held = {"/app/1/topic-0/proto": [1, 2]}
        world.stores.others, world.stores.another_away = [other], False
        world.catchup.wake()
        await world.closed.wait()
    assert world.delivered == [digest(1), digest(2)]
    assert (len(world.stores.queries), len(other.queries)) == (1, 1)
    assert world.notified == []


@asyncio_test()
async def test_a_store_that_stays_away_is_not_waited_for_for_ever() -> None:
    world = World("on-gap", topics(1))
    world.stores.another_away = True
    async with running(world):
        world.catchup.add(0, GAP)
        await asked(world, 1)
        world.now += LATE_S
        world.catchup.set_online(True)
        await world.closed.wait()
    assert len(world.catchup) == 0
    assert world.notified == []
