"""The archive on both engines: one suite, each test on a database of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio

from ipc_schema.config.archive import ArchiveDatabase, RetentionPolicy, parse_database_url, parse_retention
from ipc_schema.message import WakuMessage, message_hash
from kernel_proc.archive.api import (
    ArchiveBusy,
    ArchiveState,
    ArchiveUnavailable,
    CursorNotFound,
    HistoryQuery,
    KeyQuery,
)
from kernel_proc.archive.settings import ArchiveSettings
from tests.support.aio import trio_test
from tests.support.archive import (
    NOW,
    SHARD,
    Model,
    all_pages,
    make_message,
    offer,
    offer_all,
    random_message,
    running,
)
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.integration

SECOND = 1_000_000_000
KEEP = RetentionPolicy()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveDatabase:
    if request.param == "sqlite":
        return parse_database_url("sqlite://store.sqlite3", tmp_path)
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return parse_database_url(postgres.url(postgres.new_database()), tmp_path)


@pytest.fixture
def settings(database: ArchiveDatabase) -> ArchiveSettings:
    return ArchiveSettings(database=database, retention=KEEP)


def messages(count: int, seed: int = 1, shards: int = 3, start: int = NOW) -> list[tuple[str, WakuMessage]]:
    """Messages of several shards and topics; many share their timestamps."""
    random = Random(seed)
    return [
        (
            f"/waku/2/rs/1/{random.randrange(shards)}",
            random_message(random, start + random.randrange(count // 2)),
        )
        for _ in range(count)
    ]


# --- what is stored ---


def test_every_field_comes_back(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        message = make_message(
            NOW,
            "/app/1/grüße\0\U0001f600/proto",
            bytes(range(256)),
            version=7,
            meta=b"m" * 64,
            proof=b"proof",
        )
        async with running(settings) as archive:
            assert offer(archive, SHARD, message)
            await archive.flush()
            query = HistoryQuery(content_topics=(message.content_topic,), include_data=True)
            page = await archive.query(query)
            (stored,) = page.messages
            assert stored.message == message
            assert stored.message_hash == message_hash(SHARD, message)
            assert stored.pubsub_topic == SHARD
            assert page.cursor is None
            (stored,) = (await archive.query(dataclasses.replace(query, include_data=False))).messages
            assert (stored.message, stored.pubsub_topic) == (None, None)

    run()


def test_rules_of_admission(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        async with running(settings) as archive:
            message = make_message(NOW)
            digest = message_hash(SHARD, message)
            limit = 20 * SECOND
            assert not archive.offer(SHARD, message._replace(ephemeral=True), digest, NOW)
            assert not archive.offer(SHARD, message, digest, NOW + limit + 1)
            assert not archive.offer(SHARD, message, digest, NOW - limit - 1)
            assert not archive.offer("/" + "x" * 1000, message, digest, NOW)
            assert archive.offer(SHARD, message, digest, NOW + limit)
            assert archive.offer(SHARD, message, digest, NOW - limit)
            await archive.flush()
            assert archive.offer(SHARD, message, digest, NOW)
            await archive.flush()
            counters = {name: value for name, value in archive.counters.items() if value}
            assert counters == {
                "ephemeral": 1,
                "too_old": 1,
                "in_future": 1,
                "bad_topic": 1,
                "stored": 1,
                "duplicates": 2,
            }
            assert len((await archive.query(HistoryQuery())).messages) == 1
            errors = {
                labels["type"]: value for name, labels, value in archive.samples() if name == "archive_errors"
            }
            assert errors["invalid_message_too_old"] == errors["invalid_message_future_timestamp"] == 1

    run()


def test_largest_messages_and_topics(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        random = Random(3)
        large = make_message(NOW, "/app/1/large/proto", random.randbytes(1 << 20))
        long_topic = make_message(NOW + 1, "/" + random.randbytes(50_000).hex(), b"")
        async with running(settings) as archive:
            for message in (large, long_topic):
                assert offer(archive, SHARD, message)
            await archive.flush()
            for message in (large, long_topic):
                query = HistoryQuery(content_topics=(message.content_topic,), include_data=True)
                assert [stored.message for stored in (await archive.query(query)).messages] == [message]

    run()


def test_what_is_stored_is_there_after_a_restart(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        model = Model()
        async with running(settings) as archive:
            offer_all(archive, model, messages(3000))
        # Not flushed: an orderly end stores what waits.
        assert archive.state is ArchiveState.CLOSED
        assert not offer(archive, SHARD, make_message(NOW))
        with pytest.raises(ArchiveUnavailable):
            await archive.query(HistoryQuery())
        async with running(dataclasses.replace(settings, migrate=False, vacuum=True)) as archive:
            stored = await all_pages(archive, HistoryQuery(limit=100, forward=True))
            assert [m.message_hash for m in stored] == [
                key[1] for key in sorted((m.timestamp, digest) for digest, (_, m) in model.rows.items())
            ]

    run()


# --- queries ---


def random_query(random: Random, model: Model, digests: list[bytes]) -> HistoryQuery:
    def sometimes(make: Callable[[], object], odds: float = 0.5) -> object:
        return make() if random.random() < odds else None

    times = sorted(message.timestamp for _, message in model.rows.values())

    def moment() -> int:
        return random.choice(times) + random.choice((-1, 0, 0, 1))

    hashes = sometimes(
        lambda: (*random.choices(digests, k=random.choice((1, 5, 30, 150))), random.randbytes(32)),
        0.25,
    )
    contents = tuple(f"/app/1/chat-{random.randrange(4)}/proto" for _ in range(random.randrange(3)))
    return HistoryQuery(
        pubsub_topic=sometimes(lambda: f"/waku/2/rs/1/{random.randrange(4)}"),  # type: ignore[arg-type]
        content_topics=contents,
        start=sometimes(moment),  # type: ignore[arg-type]
        end=sometimes(moment),  # type: ignore[arg-type]
        hashes=hashes or (),  # type: ignore[arg-type]
        cursor=sometimes(lambda: random.choice(digests)),  # type: ignore[arg-type]
        forward=random.random() < 0.5,
        limit=random.choice((1, 2, 20, 100)),
        include_data=random.random() < 0.5,
    )


def test_queries_agree_with_a_naive_model(settings: ArchiveSettings) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        model = Model()
        async with running(settings) as archive:
            offer_all(archive, model, messages(1500))
            await archive.flush()
            random = Random(2)
            digests = list(model.rows)
            for _ in range(400):
                query = random_query(random, model, digests)
                assert await archive.query(query) == model.query(query), query

    run()


def test_paging_visits_everything_once(settings: ArchiveSettings) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        model = Model()
        async with running(settings) as archive:
            offer_all(archive, model, messages(700))
            await archive.flush()
            everything = sorted((m.timestamp, digest) for digest, (_, m) in model.rows.items())
            random = Random(4)
            for forward in (True, False):
                for narrowed in (False, True):
                    query = HistoryQuery(
                        forward=forward,
                        limit=random.choice((7, 20)),
                        pubsub_topic="/waku/2/rs/1/1" if narrowed else None,
                        content_topics=("/app/1/chat-0/proto", "/app/1/chat-2/proto") if narrowed else (),
                    )
                    wanted = [
                        digest
                        for _, digest in everything
                        if not narrowed
                        or (
                            model.rows[digest][0] == query.pubsub_topic
                            and model.rows[digest][1].content_topic in query.content_topics
                        )
                    ]
                    stored = await all_pages(archive, query)
                    assert [m.message_hash for m in stored] == wanted

    run()


def test_presence_of_more_hashes_than_a_page(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        model = Model()
        random = Random(5)
        async with running(settings) as archive:
            offer_all(archive, model, messages(300))
            await archive.flush()
            asked = (*list(model.rows)[:150], *(random.randbytes(32) for _ in range(50)))
            for limit in (20, 100):
                stored = await all_pages(archive, HistoryQuery(hashes=asked, limit=limit))
                assert {m.message_hash for m in stored} == set(asked[:150])
                assert len(stored) == 150

    run()


def test_unknown_cursor(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        async with running(settings) as archive:
            assert (await archive.query(HistoryQuery())).messages == ()
            offer(archive, SHARD, make_message(NOW))
            await archive.flush()
            for cursor in (bytes(32), b"\xff" * 32):
                with pytest.raises(CursorNotFound):
                    await archive.query(HistoryQuery(cursor=cursor))
            assert archive.counters["query_failures"] == 0

    run()


def test_two_topics_with_one_key_are_two(settings: ArchiveSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    # A collision of 64 bits can be computed on purpose.
    for module in ("rows", "sqlite_read", "postgres_read"):
        monkeypatch.setattr(f"kernel_proc.archive.{module}.topic_key", lambda pubsub, content: 5)

    @trio_test()
    async def run() -> None:
        model = Model()
        async with running(settings) as archive:
            offer_all(archive, model, messages(200))
            await archive.flush()
            for pubsub in (None, "/waku/2/rs/1/1"):
                query = HistoryQuery(pubsub_topic=pubsub, content_topics=("/app/1/chat-0/proto",), limit=50)
                assert await archive.query(query) == model.query(query)

    run()


def test_many_queries_while_messages_come_in(settings: ArchiveSettings) -> None:
    @trio_test(deadline=60)
    async def run() -> None:
        async with running(settings) as archive:
            done = 0

            async def ask() -> None:
                nonlocal done
                for _ in range(30):
                    page = await archive.query(HistoryQuery(forward=True, limit=50, include_data=True))
                    assert len(page.messages) == 50
                    done += 1

            first = messages(100, seed=0)
            offer_all(archive, Model(), first)
            await archive.flush()
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
                for seed in range(1, 6):
                    offer_all(archive, Model(), messages(1000, seed, start=NOW + seed * SECOND))
                    await archive.flush()
            assert done == 600
            assert archive.counters["stored"] > 5000

    run()


def test_too_many_waiting_queries_are_refused(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        outcomes = {"busy": 0, "answered": 0}
        async with running(dataclasses.replace(settings, waiting_queries=3, max_connections=2)) as archive:
            offer_all(archive, Model(), messages(200))
            await archive.flush()

            async def ask() -> None:
                try:
                    await archive.query(HistoryQuery(limit=100, include_data=True))
                    outcomes["answered"] += 1
                except ArchiveBusy:
                    outcomes["busy"] += 1

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask)
        # One is being read, three wait.
        assert outcomes == {"busy": 46, "answered": 4}
        assert archive.counters["queries_busy"] == 46

    run()


def test_a_query_that_is_given_up_harms_nothing(settings: ArchiveSettings) -> None:
    @trio_test()
    async def run() -> None:
        async with running(settings) as archive:
            offer_all(archive, Model(), messages(1000))
            await archive.flush()
            for _ in range(50):
                with trio.move_on_after(0.0005):
                    await archive.query(HistoryQuery(limit=100, include_data=True))
            assert len((await archive.query(HistoryQuery(limit=100))).messages) == 100

    run()


# --- retention ---


async def settle(goal: Callable[[], bool]) -> None:
    while not goal():
        await trio.sleep(0.005)


@pytest.mark.parametrize(
    ("policy", "left"),
    [
        ("time:100", 1500),
        ("capacity:700", 700),
        ("capacity:700;time:100", 700),
        ("time:10;capacity:700", 150),
        ("time:1000000", 2000),
    ],
)
def test_retention_removes_the_oldest(settings: ArchiveSettings, policy: str, left: int) -> None:
    count = 2000
    stored = [
        (f"/waku/2/rs/1/{number % 3}", make_message(NOW + number * SECOND // 15, payload=b"%d" % number))
        for number in range(count)
    ]
    end = stored[-1][1].timestamp + 1
    keep = dataclasses.replace(settings, retention=parse_retention(policy), retention_interval=0.05)

    @trio_test()
    async def run() -> None:
        # First all of them, then the policy: a node whose settings changed.
        async with running(settings) as archive:
            offer_all(archive, Model(), stored)
            await archive.flush()
        async with running(keep, clock=lambda: end) as archive:
            await settle(lambda: archive.counters["removed"] >= count - left)
            stored_hashes = [message_hash(topic, message) for topic, message in stored[count - left :]]
            found = await all_pages(archive, HistoryQuery(limit=100, forward=True))
            assert [m.message_hash for m in found] == stored_hashes
            assert archive.counters["removed"] == count - left
            await settle(lambda: ("archive_messages", {"type": "stored"}, left) in archive.samples())

    run()


def test_retention_by_size(settings: ArchiveSettings) -> None:
    random = Random(6)
    policy = dataclasses.replace(settings, retention=parse_retention("size:3MB"), retention_interval=0.05)

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(policy) as archive:
            for number in range(8000):
                message = make_message(NOW + number, payload=random.randbytes(1000))
                assert offer(archive, SHARD, message)
                if number % 500 == 0:
                    await archive.flush()
            await archive.flush()
            newest = message_hash(SHARD, message)
            # What 3 MB hold, roughly: rows have about 1.5 kB with their indexes.
            await settle(lambda: archive.counters["removed"] > 5500)
            await trio.sleep(0.2)  # several more looks
            assert archive.counters["removed"] < 7000
            assert [m.message_hash for m in (await archive.query(HistoryQuery(limit=1))).messages] == [newest]

    run()


def test_a_capacity_holds_while_messages_come_in(settings: ArchiveSettings) -> None:
    policy = dataclasses.replace(settings, retention=parse_retention("capacity:1000"))

    @trio_test(deadline=60)
    async def run() -> None:
        async with running(policy) as archive:
            for number in range(6000):
                assert offer(archive, SHARD, make_message(NOW + number))
                if number % 100 == 0:
                    await archive.flush()
            await archive.flush()
            # The interval is five minutes: it is the growth that makes it look.
            await settle(lambda: archive.counters["removed"] >= 4900)
            stored = await all_pages(archive, HistoryQuery(limit=100))
            assert 900 <= len(stored) <= 1100

    run()


@trio_test()
async def test_messages_of_other_stores_are_taken_at_any_age(settings: ArchiveSettings) -> None:
    reported: list[tuple[str, int, bytes]] = []
    released = trio.Event()
    async with running(settings) as made:
        made.add_listener(reported.extend)
        old = make_message(NOW - 10**15, "/old")
        digest = message_hash(SHARD, old)
        assert await made.insert(SHARD, old, digest)
        assert await made.insert(SHARD, old, digest)  # twice is once
        assert not await made.insert(SHARD, make_message(NOW, ephemeral=True), bytes(32))
        await made.flush()
        assert set(reported) == {(SHARD, NOW - 10**15, digest)}
        assert [span.messages for span in await made.spans()] == [1]
    async with running(settings, hold=released) as made:
        await made.insert(SHARD, make_message(NOW), message_hash(SHARD, make_message(NOW)))
        # what was there before can be read, although a new message waits
        assert await made.keys(KeyQuery(SHARD, (0, b""), (NOW + 1, b""), 10)) == [(NOW - 10**15, digest)]
        released.set()
        await made.flush()
        assert (await made.spans())[0][1:] == (2, NOW - 10**15, NOW)


@trio_test()
async def test_keys_are_read_in_either_direction_and_by_content_topic(settings: ArchiveSettings) -> None:
    random = Random(5)
    async with running(settings) as made:
        rows = []
        for number in range(120):
            topic = f"/waku/2/rs/1/{number % 2}"
            message = random_message(random, NOW + random.randrange(50))
            digest = message_hash(topic, message)
            assert await made.insert(topic, message, digest)
            rows.append((message.timestamp, digest, topic, message.content_topic))
        rows.sort()
        await made.flush()
        for contents in ((), ("/app/1/chat-0/proto",), ("/app/1/chat-0/proto", "/app/1/chat-2/proto", "/x")):
            expected = [
                (at, digest)
                for at, digest, topic, content in rows
                if topic == SHARD and (not contents or content in contents)
            ]
            low, high = expected[3], expected[-4]
            query = KeyQuery(SHARD, low, high, 1000, content_topics=contents)
            assert await made.keys(query) == expected[4:-4]
            assert await made.keys(query._replace(forward=False, limit=7)) == expected[4:-4][::-1][:7]
            everything = query._replace(low=(0, b""), high=(1 << 62, b""))
            assert await made.keys(everything) == expected
