"""Store resume: the plan and its file; fetching from stores that fail, lie, or have holes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from ipc_schema.message import WakuMessage
from kernel_proc.archive.api import HistoryPage, HistoryQuery
from kernel_proc.metrics import Registry
from kernel_proc.protocols import resume
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.resume import ResumeScope, ResumeState, StoreResume
from kernel_proc.protocols.resume_plan import (
    LOOK_BACK_NS,
    OVERLAP_NS,
    ResumeGap,
    load_gaps,
    plan_gaps,
    save_gaps,
)
from kernel_proc.protocols.store import StoreService
from kernel_proc.protocols.store_client import StoreClient
from tests.support.aio import trio_test
from tests.support.memory_archive import MemoryArchive
from tests.support.memory_hosts import MemoryNetwork, memory_network

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
HOUR = 3600 * SECOND
TOPIC, OTHER = "/waku/2/rs/1/0", "/waku/2/rs/1/1"


# --- the plan ---


def test_it_begins_at_the_newest_message_or_where_it_was_left() -> None:
    newest = {"new": None, "down": NOW - HOUR, "killed": NOW - SECOND, "gone": NOW - 100 * HOUR}
    unfinished = [ResumeGap("killed", NOW - 9 * HOUR, NOW - 2 * HOUR), ResumeGap("left", 0, 0)]
    gaps = plan_gaps(newest, unfinished, now=NOW, keeps_ns=48 * HOUR)
    assert gaps == [
        ResumeGap("new", NOW - LOOK_BACK_NS, NOW - LOOK_BACK_NS),
        ResumeGap("down", NOW - HOUR - OVERLAP_NS, NOW - HOUR - OVERLAP_NS),
        ResumeGap("killed", NOW - 9 * HOUR, NOW - 2 * HOUR),
        ResumeGap("gone", NOW - 48 * HOUR, NOW - 48 * HOUR),
    ]
    # a newest message from the future leaves nothing to ask for
    assert plan_gaps({"ahead": NOW + HOUR}, (), now=NOW, keeps_ns=None) == []


def test_the_file_outlives_the_process_and_a_damaged_one_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "resume.json"
    assert load_gaps(path) == []
    gaps = [ResumeGap(TOPIC, 1, 2), ResumeGap(OTHER, 3, 4)]
    save_gaps(path, gaps)
    assert load_gaps(path) == gaps
    assert path.stat().st_mode & 0o777 == 0o600
    for content in ("", "[]", '{"version": 2, "gaps": []}', '{"version": 1, "gaps": [{}]}', "9" * (2 << 20)):
        path.write_text(content)
        assert load_gaps(path) == []


# --- fetching ---


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses: files are written in threads, which a mock clock does not wait for."""
    monkeypatch.setattr(resume, "LOOK", 0.01)
    monkeypatch.setattr(resume, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(resume, "SAVE_SECONDS", 0.0)


async def until(check: Callable[[], bool]) -> None:
    while not check():
        await trio.sleep(0.01)


class Stores:
    """Stores on memory hosts, and a node that resumes from them."""

    def __init__(self, network: MemoryNetwork, path: Path) -> None:
        self.network = network
        self.archives: dict[str, MemoryArchive] = {}
        self.host = network.host("node")
        self.archive = MemoryArchive()
        self.registry = Registry(prefix="")
        peers = ServicePeerChoice(
            self.host, PeerRanking(trio.current_time, Random(1)), lambda _peer: None, {}
        )
        self.covered = True
        self.is_expecting: Callable[[], bool] = lambda: False
        self.resume = StoreResume(
            StoreClient(self.host, peers, self.registry, max_message_size=150_000),
            peers,
            self.archive,
            self.registry,
            path,
            ResumeScope(
                topics=lambda: {TOPIC: 0, OTHER: 1},
                is_covered=lambda _topic: self.covered,
                is_expecting=lambda: self.is_expecting(),
                is_signed=lambda _topic, one: one.payload != b"unsigned",
                keeps=None,
            ),
            clock=lambda: NOW,
        )

    def store(self, name: str, *, archive: MemoryArchive | None = None) -> MemoryArchive:
        found = self.archives[name] = archive or MemoryArchive()
        StoreService(self.network.host(name), found, Registry(prefix="")).service.mount()
        return found

    async def run(self) -> None:
        """Until it is done."""
        self.network.nursery.start_soon(self.resume.run)
        await self.done()

    async def done(self) -> None:
        await until(lambda: self.resume.state is ResumeState.DONE)


@asynccontextmanager
async def stores(path: Path) -> AsyncIterator[Stores]:
    async with memory_network() as network:
        yield Stores(network, path / "resume.json")


def put(archive: MemoryArchive, count: int, name: str, age: int = 3600, topic: str = TOPIC) -> set[bytes]:
    return {
        archive.put(
            topic, WakuMessage(f"{name} {number}".encode(), "/a", timestamp=NOW - age * SECOND + number)
        )
        for number in range(count)
    }


@trio_test()
async def test_every_store_fills_the_holes_of_the_others(tmp_path: Path) -> None:
    async with stores(tmp_path) as all_of:
        had = put(all_of.archive, 5, "had", 7200)
        one, two, three = (all_of.store(name) for name in ("one", "two", "three"))
        missed = put(one, 250, "both") | put(two, 250, "both")
        missed |= put(one, 30, "one") | put(two, 130, "two") | put(three, 7, "three", topic=OTHER)
        before = put(one, 9, "long before", 20_000)
        unsigned = one.put(TOPIC, WakuMessage(b"unsigned", "/a", timestamp=NOW - 60 * SECOND))
        await all_of.run()
        assert set(all_of.archive.rows) == had | missed
        assert all_of.resume.added == len(missed)
        assert not before & set(all_of.archive.rows)
        assert unsigned not in all_of.archive.rows
        assert load_gaps(tmp_path / "resume.json") == []
        assert all_of.archive.held is not None
        assert all_of.archive.held.is_set()


@trio_test()
async def test_it_waits_for_a_store_and_goes_to_the_next_when_one_lies(tmp_path: Path) -> None:
    class Liar(MemoryArchive):
        """Gives other messages than those that it lists."""

        async def query(self, query: HistoryQuery) -> HistoryPage:
            page = await super().query(query)
            return HistoryPage(
                tuple(one._replace(message_hash=bytes(31) + b"x") for one in page.messages), page.cursor
            )

    async with stores(tmp_path) as all_of:
        all_of.network.nursery.start_soon(all_of.resume.run)
        await until(lambda: all_of.resume.error == "no connected peer serves store")
        assert str(all_of.resume.state) == "waiting"
        assert [gap.pubsub_topic for gap in load_gaps(tmp_path / "resume.json")] == [TOPIC, OTHER]
        put(all_of.store("liar", archive=Liar()), 20, "lies")
        await until(lambda: "does not match its hash" in all_of.resume.error)
        assert all_of.archive.rows == {}
        missed = put(all_of.store("honest"), 20, "missed")
        await all_of.done()
        assert set(all_of.archive.rows) == missed
        assert str(all_of.resume.state) == "done"


@trio_test()
async def test_what_came_before_the_first_relay_peer_is_fetched_too(tmp_path: Path) -> None:
    async with stores(tmp_path) as all_of:
        all_of.covered = False
        store = all_of.store("one")
        missed = put(store, 3, "missed")
        all_of.network.nursery.start_soon(all_of.resume.run)
        await until(lambda: not all_of.resume.gaps and bool(all_of.archive.rows))
        assert set(all_of.archive.rows) == missed
        late = put(store, 2, "between", -9)
        all_of.covered = True
        await all_of.done()
        assert set(all_of.archive.rows) == missed | late
        assert str(all_of.resume.state) == "done"


@trio_test()
async def test_a_configured_store_that_connects_later_is_asked_too(tmp_path: Path) -> None:
    async with stores(tmp_path) as all_of:
        missed = put(all_of.store("one"), 3, "one")

        def connects() -> bool:
            if "two" not in all_of.archives:
                missed.update(put(all_of.store("two"), 3, "two"))
                return True
            return False

        all_of.is_expecting = connects
        await all_of.run()
        assert set(all_of.archive.rows) == missed
        assert len(missed) == 6


@trio_test()
async def test_a_configured_peer_that_stays_away_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "EXPECT_SECONDS", 0.1)
    async with stores(tmp_path) as all_of:
        all_of.is_expecting = lambda: True
        missed = put(all_of.store("one"), 3, "one")
        await all_of.run()
        assert set(all_of.archive.rows) == missed


@pytest.mark.parametrize("done", [0, 1])
def test_an_unfinished_time_is_read_from_where_it_was_left(tmp_path: Path, done: int) -> None:
    @trio_test()
    async def run() -> None:
        async with stores(tmp_path) as all_of:
            start = NOW - 4 * HOUR
            save_gaps(tmp_path / "resume.json", [ResumeGap(TOPIC, start, start + done * HOUR)])
            live = put(all_of.archive, 1, "live", 60)
            store = all_of.store("one")
            first, second = put(store, 4, "first", 13_000), put(store, 4, "second", 9000)
            await all_of.run()
            expected = live | second | (first if not done else set())
            assert set(all_of.archive.rows) == expected

    run()
