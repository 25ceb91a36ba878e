"""Asking stores for a span of time: portions, a disk that is behind, stores that lack something or lie."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.kernel.discovery import KnownPeersReply, KnownRecord
from ipc_schema.kernel.records import PeerRecord
from ipc_schema.kernel.store import StoredMessage, StoreQueryReply, store_blobs
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import STORE, ServicePeers
from mapi_proc.receive.fetching import HASHES_A_QUERY, fetch
from mapi_proc.receive.stores import StoreHistory, StorePeer
from tests.support.aio import asyncio_test

TOPIC = "/app/1/chat/proto"
PUBSUB = shard_topic(1, 0)


def stored(number: int, pubsub: str = PUBSUB) -> StoredMessage:
    message = WakuMessage(b"%d" % number, TOPIC, timestamp=number)
    return StoredMessage(message_hash(pubsub, message), pubsub, message)


class Stores(StorePeer):
    """A history of many messages, and how much of it is in memory at once."""

    def __init__(self, count: int) -> None:
        self.held = {one.message_hash: one for one in map(stored, range(count))}
        self.asked: list[int] = []

    connected = 0.0
    name = "store"

    async def count(self, start_ns: int, end_ns: int, most: int) -> int:
        return min(most, len(self.held))

    async def hashes(self, topics: Sequence[str], start_ns: int, end_ns: int) -> list[bytes]:
        return list(self.held)

    async def messages(self, hashes: Sequence[bytes]) -> list[StoredMessage]:
        self.asked.append(len(hashes))
        return [self.held[digest] for digest in reversed(hashes)]


@asyncio_test()
async def test_a_long_time_passes_through_one_portion_of_memory_and_waits_for_the_disk() -> None:
    stores = Stores(1050)
    delivered: list[int] = []
    room = asyncio.Event()

    def deliver(message: StoredMessage) -> None:
        delivered.append(message.message.timestamp)

    async def wait() -> None:
        await room.wait()

    async def run() -> list[StorePeer]:
        return await fetch(
            [stores], [TOPIC], 0, 9999, room=wait, wanted=lambda _digest: True, deliver=deliver
        )

    task = asyncio.create_task(run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert stores.asked == [], "nothing is asked for while the disk is behind"
    room.set()
    assert await task == [stores]
    assert stores.asked == [HASHES_A_QUERY] * 10 + [50]
    assert delivered == list(range(1050)), "oldest first"


class Kernel:
    """A kernel whose store peers answer as the test says."""

    def __init__(self) -> None:
        self.answers: dict[str, list[StoredMessage]] = {}
        self.endless = False
        self.asked: list[str] = []

    async def request(
        self, method: str, body: Mapping[str, object], blobs: Sequence[bytes] = (), *, timeout: float = 10.0
    ) -> Reply:
        peer = str(body["peer"])
        self.asked.append(peer)
        if peer not in self.answers:
            raise IpcError(ErrorCode.NO_PEERS, "it does not answer")
        found = self.answers[peer]
        if not self.endless:
            wanted = cast("list[bytes]", body["hashes"])
            found = [one for one in found if one.message_hash in wanted]
        cursor = bytes(32) if self.endless else None
        reply = StoreQueryReply(peer=peer, hashes=tuple(one.message_hash for one in found), cursor=cursor)
        return Reply(
            bytes(16),
            0,
            bytes(16),
            reply.to_body(),
            tuple(store_blobs((one.pubsub_topic, one.message) for one in found)),
        )


def world(*names: str) -> tuple[Kernel, StoreHistory]:
    kernel = Kernel()
    peers = ServicePeers(lambda: 0.0, lambda: 0.5)
    peers.update(PeerRecord(peer_id=name, protocols=STORE) for name in names)
    return kernel, StoreHistory(cast("KernelLink", kernel), peers, lambda: 1)


@asyncio_test()
async def test_all_stores_are_asked_and_the_union_of_them_is_delivered() -> None:
    first, second = Stores(3), Stores(5)
    delivered: list[int] = []
    known: set[bytes] = set()

    async def room() -> None:
        """The disk keeps up."""

    def deliver(message: StoredMessage) -> None:
        known.add(message.message_hash)
        delivered.append(message.message.timestamp)

    answered = await fetch(
        [first, second], [TOPIC], 0, 9999, room=room, wanted=lambda d: d not in known, deliver=deliver
    )
    assert answered == [first, second]
    assert sorted(delivered) == [0, 1, 2, 3, 4]
    assert sum(first.asked) + sum(second.asked) == 5, "each body travels once"


@pytest.mark.parametrize("at", ["hashes", "messages"])
@asyncio_test()
async def test_a_store_that_hangs_delays_no_other(at: str) -> None:
    hanging, good = Stores(5), Stores(5)
    known: set[bytes] = set()
    whole = asyncio.Event()

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def room() -> None:
        """The disk keeps up."""

    def deliver(message: StoredMessage) -> None:
        known.add(message.message_hash)
        if len(known) == 5:
            whole.set()

    setattr(hanging, at, hang)
    answered = await fetch(
        [hanging, good],
        [TOPIC],
        0,
        9999,
        room=room,
        wanted=lambda d: d not in known,
        deliver=deliver,
        lag=0.01,
    )
    assert whole.is_set()
    assert answered == [good]


@asyncio_test()
async def test_a_store_that_gives_another_shards_messages_for_ever_is_left() -> None:
    kernel, history = world("liar")
    foreign = stored(1, shard_topic(1, 7))
    kernel.answers, kernel.endless = {"liar": [foreign]}, True
    (liar,) = history.stores(0)
    assert await liar.messages([foreign.message_hash]) == []
    assert len(kernel.asked) == 1


@asyncio_test()
async def test_without_an_answer_nothing_is_known() -> None:
    _, history = world("silent")
    (silent,) = history.stores(0)
    assert await silent.messages([stored(1).message_hash]) is None
    assert await silent.hashes([TOPIC], 0, 1) is None
    assert await silent.count(0, 1, 1) is None


@asyncio_test()
async def test_all_connected_stores_are_asked_and_how_long_they_are_connected_is_known() -> None:
    now = 0.0
    peers = ServicePeers(lambda: now, lambda: 0.5)
    peers.update(PeerRecord(peer_id=name, protocols=STORE, connected_ms=2000) for name in "abcd")
    history = StoreHistory(cast("KernelLink", Kernel()), peers, lambda: 1)
    assert len(history.stores(0)) == 4
    now = 3.0
    assert {store.connected for store in history.stores(0)} == {5.0}
    peers.failed(STORE, "b")
    assert len(history.stores(0)) == 3


class KernelThatKnows:
    """A kernel that lists the peers it knows."""

    def __init__(self, *peers: KnownRecord) -> None:
        self.peers = peers

    async def request(self, method: str, body: Mapping[str, object], *, timeout: float) -> Reply:
        if not self.peers:
            raise IpcError(ErrorCode.UNKNOWN_METHOD, method)
        assert method == "peers.known"
        return Reply(bytes(16), 0, bytes(16), KnownPeersReply(total=1, peers=self.peers).to_body(), ())


@pytest.mark.parametrize(
    ("known", "away"),
    [
        ({}, True),
        ({"connected": True}, False),
        ({"protocols": ()}, False),
        ({"shards": (1,)}, False),
        ({"shards": (0, 1)}, True),
        ({"last_success_ms": 1_000_000}, False),
        ({"last_success_ms": 0}, False),
        ({"last_success_ms": 90_000_000}, True),  # before the clock was set back
        (None, False),
    ],
)
@asyncio_test()
async def test_a_store_is_away_that_was_connected_of_late(known: dict[str, Any] | None, away: bool) -> None:
    now = 10_000.0
    fields = {"peer_id": "s", "protocols": STORE, "last_success_ms": 9_000_000, **(known or {})}
    kernel = KernelThatKnows(*(() if known is None else (KnownRecord(**fields),)))
    history = StoreHistory(cast("KernelLink", kernel), ServicePeers(lambda: 0.0, lambda: 0.5), lambda: 1)
    assert await history.away(0, now) is away
    other_shard = known == {"shards": (1,)}
    assert await history.stores_away(now) == (["s"] if away or other_shard else [])
