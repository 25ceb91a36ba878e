"""Store sync over streams: two stores, and peers that do not keep to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest
import trio
import trio.testing

from ipc_schema.message import WakuMessage, encode_message, message_hash
from kernel_proc.archive.api import ArchiveUnavailable
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream, StreamClosed, StreamHandler
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed
from kernel_proc.protocols.sync.codec import (
    PROTOCOL,
    ItemSet,
    SyncPayload,
    SyncRange,
    decode_payload,
    encode_payload,
)
from kernel_proc.protocols.sync.keys import key_at, make_key
from kernel_proc.protocols.sync.reconcile import TopicFilter
from kernel_proc.protocols.sync.service import (
    AGAIN_SECONDS,
    PER_PEER,
    StoreSync,
    SyncOutcome,
    SyncScope,
    SyncSettings,
    SyncTopics,
)
from kernel_proc.protocols.sync.stock import SyncStock
from kernel_proc.protocols.sync.transfer import MAX_REFUSED
from kernel_proc.protocols.sync.transfer_codec import (
    MAX_NWAKU_TRANSFER,
    TRANSFER_PROTOCOL,
    encode_transfer,
)
from tests.support.memory_archive import MemoryArchive
from tests.support.memory_hosts import MemoryHost, MemoryNetwork, memory_network
from tests.support.mock_clock import mock_clock_test

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
TOPIC, OTHER = "/waku/2/rs/1/0", "/waku/2/rs/1/1"
CONTENT = "/app/1/chat/proto"
MAX_SIZE = 200_000


def message(name: str, age: float = 100.0, content: str = CONTENT, **more: object) -> WakuMessage:
    return WakuMessage(name.encode(), content, timestamp=NOW - int(age * SECOND), **more)  # type: ignore[arg-type]


class Store:
    """A store with sync on a memory host."""

    def __init__(
        self,
        network: MemoryNetwork,
        name: str,
        *,
        names: tuple[str, ...] = (TOPIC,),
        whole: bool = True,
        is_signed: Callable[[str, WakuMessage], bool] = lambda _topic, _message: True,
    ) -> None:
        self.host: MemoryHost = network.host(name)
        self.archive = MemoryArchive()
        self.registry = Registry(prefix="")
        self.sync = StoreSync(
            self.host,
            self.archive,
            ServicePeerChoice(self.host, PeerRanking(trio.current_time, Random(1)), lambda _peer: None, {}),
            SyncSettings(interval=300.0, range=3600.0, jitter=20.0),
            self.registry,
            Random(1),
            SyncScope(
                topics=lambda: SyncTopics(names, whole), is_signed=is_signed, max_message_size=MAX_SIZE
            ),
            clock=lambda: NOW + int(trio.current_time() * SECOND),
        )
        self.sync.mount()
        network.nursery.start_soon(self.sync.run)

    def put(self, *messages: WakuMessage, topic: str = TOPIC) -> set[bytes]:
        return {self.archive.put(topic, one) for one in messages}

    @property
    def hashes(self) -> set[bytes]:
        return set(self.archive.rows)

    def counted(self, name: str, **labels: str) -> float:
        return sum(
            value
            for key, found, value in self.registry.collect()
            if key == name and labels.items() <= found.items()
        )


@asynccontextmanager
async def two_stores() -> AsyncIterator[tuple[Store, Store]]:
    async with memory_network() as network:
        yield Store(network, "one"), Store(network, "two")


async def ready(*stores: Store) -> None:
    """Until the indexes are filled."""
    for store in stores:
        await store.sync.stock.ensure((TOPIC,))


@mock_clock_test
async def test_both_get_what_they_lack() -> None:
    async with two_stores() as (one, two):
        shared = [message(f"shared {number}", 500 + number) for number in range(150)]
        one.put(*shared, *(message(f"one {number}", 300 + number) for number in range(20)))
        two.put(*shared, *(message(f"two {number}", 900 + number) for number in range(130)))
        young = one.put(message("still on its way", 5))
        await ready(one, two)
        outcome = await one.sync.sync(None, trio.current_time() + 30)
        assert (outcome.peer_id, outcome.received, outcome.sent, outcome.error) == ("two", 130, 20, "")
        await trio.testing.wait_all_tasks_blocked()
        assert one.hashes - young == two.hashes
        assert len(two.hashes) == 300
        assert two.counted("total_transfer_messages_exchanged", direction="receive") == 20
        assert two.counted("total_transfer_messages_exchanged", direction="sent") == 130
        assert one.counted("reconciliation_roundtrips_count") == 1
        assert one.counted("reconciliation_differences_sum") >= 20
        sent = one.counted("total_bytes_exchanged", protocol="reconciliation", direction="sent")
        assert (
            sent == two.counted("total_bytes_exchanged", protocol="reconciliation", direction="receive") > 0
        )
        # what is archived later is compared at once
        two.put(late := message("late", 40))
        await two.archive.insert(TOPIC, late, message_hash(TOPIC, late))
        assert (await two.sync.sync("one", trio.current_time() + 30)).sent == 1
        assert not one.host.handler_errors + two.host.handler_errors


@mock_clock_test
async def test_sessions_are_opened_with_one_store_after_the_other() -> None:
    async with memory_network() as network:
        stores = [Store(network, name) for name in ("a", "b", "c")]
        for store in stores:
            store.put(message(store.host.peer_id))
        await ready(*stores)
        await trio.sleep(601)
        opened = [peer for peer, protocol in stores[0].host.opened if protocol == PROTOCOL]
        assert sorted(opened[:2]) == ["b", "c"]
        assert stores[0].hashes == stores[1].hashes == stores[2].hashes


@mock_clock_test
async def test_a_peer_that_is_never_finished_does_not_keep_the_others_from_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred sessions in a row with one that brings nothing, and again whenever it opened one."""
    async with memory_network() as network:
        store, *others = (Store(network, name) for name in ("store", "liar", "honest"))
        await ready(store, *others)
        opened: list[str] = []

        async def sync_with(peer_id: str) -> SyncOutcome:
            opened.append(peer_id)
            store.sync._last[peer_id] = trio.current_time()
            if peer_id == "liar":
                store.sync._unfinished = peer_id  # it opens a session in turn, and that is cut short
                store.sync._again.set()
            return SyncOutcome(peer_id, cut_short=peer_id == "liar")

        monkeypatch.setattr(store.sync, "sync_with", sync_with)
        await trio.sleep(4 * 300 + 10)
        assert "honest" in opened[opened.index("liar") :]
        assert opened.count("liar") <= 4 * 300 / AGAIN_SECONDS


@mock_clock_test
async def test_large_messages_come_on_streams_of_their_own() -> None:
    async with two_stores() as (one, two):
        large = [WakuMessage(bytes(160_000 + number), CONTENT, 0, NOW - 100 * SECOND) for number in range(2)]
        two.put(*large, *(message(f"small {number}") for number in range(3)))
        await ready(one, two)
        outcome = await one.sync.sync("two", trio.current_time() + 30)
        assert outcome.received == 5
        assert one.hashes == two.hashes
        assert [protocol for _, protocol in two.host.opened] == [TRANSFER_PROTOCOL] * 3
        assert min(len(one_of_them.payload) for one_of_them in large) > MAX_NWAKU_TRANSFER


@mock_clock_test
async def test_only_topics_in_common_are_compared() -> None:
    async with memory_network() as network:
        one = Store(network, "one", names=(TOPIC, OTHER), whole=False)
        two = Store(network, "two", names=(OTHER,), whole=False)
        three = Store(network, "three", names=("/waku/2/rs/1/7",), whole=False)
        for store in (one, two):
            store.put(message(f"{store.host.peer_id} here"), topic=TOPIC)
            store.put(message(f"{store.host.peer_id} there"), topic=OTHER)
        await trio.sleep(1)
        outcome = await one.sync.sync("two", trio.current_time() + 30)
        assert (outcome.received, outcome.sent) == (1, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(one.hashes) == len(two.hashes) == 3
        # nothing in common: an empty frame ends the session
        outcome = await one.sync.sync("three", trio.current_time() + 30)
        assert (outcome.round_trips, outcome.to_send, outcome.error) == (1, 0, "")
        assert three.hashes == set()


@mock_clock_test
async def test_a_peer_may_compare_single_content_topics() -> None:
    async with memory_network() as network:
        store, peer = Store(network, "store"), network.host("peer")
        wanted = store.put(message("wanted", content="/b"))
        store.put(message("not wanted", content="/a"))
        await ready(store)
        received: list[bytes] = []
        peer.set_stream_handler(TRANSFER_PROTOCOL, _collect(received))
        async with session(peer, "store") as talk:
            low, high = key_at(NOW - 3000 * SECOND), key_at(NOW)
            await talk.say(SyncPayload((), ("/b", "/c"), [SyncRange(low, high, bytes(32))]))
            (answer,) = (await talk.hear()).ranges
            assert isinstance(answer.content, ItemSet)
            assert [key[8:] for key in answer.content.keys] == list(wanted)
            await talk.say(
                SyncPayload((), ("/b", "/c"), [SyncRange(low, high, ItemSet([], reconciled=True))])
            )
            assert (await talk.hear()).ranges == ()
        await trio.sleep(1)
        assert len(received) == 1


# --- peers that do not keep to it -------------------------------------------------------------------------


class Talk:
    """A session from the outside."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._reader = MessageReader(stream, 1 << 24)

    async def say(self, payload: SyncPayload) -> None:
        await self.stream.write(encode_frame(encode_payload(payload)))

    async def broken_off(self) -> None:
        """Wait until the other side has ended the session."""
        with pytest.raises(StreamClosed):
            await self.hear()
        await trio.testing.wait_all_tasks_blocked()

    async def hear(self) -> SyncPayload:
        frame = await self._reader.read()
        assert frame is not None
        return decode_payload(frame)


@asynccontextmanager
async def session(host: MemoryHost, peer_id: str) -> AsyncIterator[Talk]:
    stream = await host.open_stream(peer_id, (PROTOCOL,))
    yield Talk(stream)
    await stream.close()


def _collect(into: list[bytes]) -> StreamHandler:
    async def handle(stream: Stream) -> None:
        reader = MessageReader(stream, 1 << 24)
        while (frame := await reader.read()) is not None:
            into.append(frame)

    return handle


async def give(host: MemoryHost, *frames: bytes) -> bool:
    """Transfer; whether the stream survived."""
    stream = await host.open_stream("store", (TRANSFER_PROTOCOL,))
    try:
        for frame in frames:
            await stream.write(encode_frame(frame))
        await trio.testing.wait_all_tasks_blocked()
        await stream.close()
    except StreamClosed:
        return False
    return not stream.was_reset


def frame_of(one: WakuMessage, topic: str = TOPIC) -> bytes:
    return encode_transfer(topic, encode_message(one))


@mock_clock_test
async def test_only_what_was_asked_for_is_archived() -> None:
    async with memory_network() as network:
        store = Store(network, "store", is_signed=lambda _topic, one: one.payload != b"unsigned")
        liar, stranger = network.host("liar"), network.host("stranger")
        mine = store.put(*(message(f"mine {number}", 1000) for number in range(3)))
        await ready(store)
        asked, unasked = message("asked", 50), message("unasked", 50)
        refused = "store_sync_transfers_refused"
        # without a session nothing is
        assert await give(stranger, frame_of(asked))
        assert store.counted(refused, type="unasked") == 1
        # a session in which the liar lists one message of a range, and says nothing of another
        low, middle, high = (key_at(NOW - age * SECOND) for age in (900, 400, 0))
        listed = make_key(asked.timestamp, message_hash(TOPIC, asked))
        async with session(liar, "store") as talk:
            await talk.say(
                SyncPayload(
                    ranges=[
                        SyncRange(low, middle),
                        SyncRange(middle, high, ItemSet([listed], reconciled=False)),
                    ]
                )
            )
            skipped, answer = (await talk.hear()).ranges
            assert skipped.content is None
            assert answer.content == ItemSet([], reconciled=True)
        changed = asked._replace(payload=b"changed")
        await give(
            liar,
            frame_of(unasked),
            frame_of(changed),  # another message under that name: its hash is recomputed
            frame_of(asked._replace(ephemeral=True)),
            frame_of(asked, OTHER),
            frame_of(message("long ago", 5000)),
            frame_of(message("to come", -60)),
            frame_of(message("unsigned", 50)._replace(payload=b"unsigned")),
            b"\xff\xff",
            b"",
            frame_of(asked),
            frame_of(asked),
        )
        assert store.hashes == {*mine, message_hash(TOPIC, asked)}
        for kind, number in {
            "unasked": 4,
            "ephemeral": 1,
            "other_topic": 1,
            "other_time": 2,
            "unsigned": 1,
            "malformed": 2,
        }.items():
            assert store.counted(refused, type=kind) == number, kind
        # a peer that goes on loses the stream
        assert not await give(liar, *[frame_of(unasked)] * (MAX_REFUSED + 2))
        assert not await give(liar, bytes(MAX_SIZE + 2000))
        assert len(store.hashes) == 4


@mock_clock_test
async def test_a_range_that_was_asked_for_unlisted_is_taken_for_a_while() -> None:
    async with memory_network() as network:
        store, peer = Store(network, "store"), network.host("peer")
        await ready(store)
        async with session(peer, "store") as talk:
            low, high = key_at(NOW - 900 * SECOND), key_at(NOW - 100 * SECOND)
            await talk.say(SyncPayload(ranges=[SyncRange(low, high, b"x" * 32)]))
            (answer,) = (await talk.hear()).ranges
            assert answer.content == ItemSet([], reconciled=True)
            # it has nothing there: whatever we have is welcome, without being listed
            assert await give(peer, frame_of(message("inside", 500)), frame_of(message("outside", 950)))
            await talk.say(SyncPayload())
        assert store.hashes == {message_hash(TOPIC, message("inside", 500))}
        await trio.sleep(100)
        await give(peer, frame_of(message("later", 500)))
        await trio.sleep(100)
        await give(peer, frame_of(message("too late", 500)))
        assert len(store.hashes) == 2


@mock_clock_test
async def test_malformed_silent_and_too_many_sessions_are_ended_and_counted() -> None:
    async with memory_network() as network:
        store, peer = Store(network, "store"), network.host("peer")
        await ready(store)
        for bad in (b"\0\0\xff", b"\x81\x08"):
            async with session(peer, "store") as talk:
                await talk.stream.write(encode_frame(bad))
                await talk.broken_off()
        assert store.counted("store_sync_errors", type="malformed") == 2
        async with session(peer, "store") as talk:
            await talk.stream.write(b"\xff\xff\xff\xff\x7f")  # a frame of 32 GiB
            await talk.broken_off()
        assert store.counted("store_sync_errors", type="malformed") == 3
        async with session(peer, "store") as talk:
            await talk.broken_off()  # we said nothing
        assert store.counted("store_sync_errors", type="stalled") == 1
        # two at the same time, and more than it may open
        async with session(peer, "store") as _first, session(peer, "store") as talk:
            await talk.broken_off()
        assert store.counted("store_sync_errors", type="busy") == 1
        for _ in range(PER_PEER.volume + 1):
            async with session(peer, "store") as talk:
                with suppress(StreamClosed):
                    await talk.say(SyncPayload())
            await trio.testing.wait_all_tasks_blocked()
        assert store.counted("store_sync_errors", type="rate_limited") > 0


@mock_clock_test
async def test_what_keeps_a_session_from_being_opened_is_reported() -> None:
    async with memory_network() as network:
        store, away = Store(network, "store"), Store(network, "away")
        await ready(store, away)
        away.archive.error = ArchiveUnavailable("no space left on device")
        with pytest.raises(AllFailed, match="x is not connected"):
            await store.sync.sync("x", trio.current_time() + 5)
        store.host.away.add("away")
        with pytest.raises(AllFailed, match="no connected peer speaks store sync"):
            await store.sync.sync(None, trio.current_time() + 5)
        store.host.away.clear()
        away.put(message("one"))
        await away.archive.insert(TOPIC, message("one"), message_hash(TOPIC, message("one")))
        outcome = await store.sync.sync("away", trio.current_time() + 30)
        assert outcome.received == 0  # it cannot read what it would give
        assert away.counted("store_sync_errors", type="archive") == 1


@mock_clock_test
async def test_the_index_is_bounded_and_the_window_follows() -> None:
    archive = MemoryArchive()
    stock = SyncStock(archive, seconds=3600, jitter=20, clock=lambda: NOW, max_keys=100)
    for number in range(1000):
        archive.put(TOPIC, message(f"{number}", 3000 - number))
    await stock.ensure((TOPIC,))
    assert 20 <= len(stock) <= 100
    window = stock.window()
    assert window.start > NOW - 2200 * SECOND
    assert len((await stock.view(TopicFilter(), window)).keys(key_at(0), key_at(1 << 62))) == len(stock)
    # nothing older comes in again, and topics that are left take no room
    old = message("old", 3000)
    await archive.insert(TOPIC, old, message_hash(TOPIC, old))
    assert not stock.holds(TOPIC, make_key(old.timestamp, message_hash(TOPIC, old)))
    await stock.ensure(())
    assert len(stock) == 0
    assert not stock.ready


@mock_clock_test
async def test_a_peer_that_brings_nothing_is_not_asked_again_before_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with memory_network() as network:
        store, liar = Store(network, "store"), Store(network, "liar")
        await ready(store, liar)
        opened: list[str] = []

        async def sync_with(peer_id: str) -> SyncOutcome:
            opened.append(peer_id)
            return SyncOutcome(peer_id, cut_short=True)

        monkeypatch.setattr(store.sync, "sync_with", sync_with)
        await trio.sleep(2 * 300 + 10)
        assert 1 <= len(opened) <= 3
