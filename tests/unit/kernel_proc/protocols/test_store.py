"""Store v3: codec, service and client, against nwaku's frames and against peers that do not keep to it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc_schema.message import WakuMessage, encode_message, message_hash
from ipc_schema.protobuf import ProtobufError
from kernel_proc.archive.api import (
    ArchiveBusy,
    ArchivedMessage,
    ArchiveError,
    ArchiveUnavailable,
    CursorNotFound,
    HistoryPage,
    HistoryQuery,
)
from kernel_proc.metrics import Registry
from kernel_proc.protocols import store_client
from kernel_proc.protocols import store_codec as codec
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.peer_select import PeerRanking, ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed, BadAnswer, RequestRefused
from kernel_proc.protocols.store import MAX_PAGE_BYTES, StoreService, cut
from kernel_proc.protocols.store_client import History, StoreClient, local_history, read_page
from kernel_proc.protocols.store_codec import PROTOCOL, KeyValue, StoreRequest, StoreResponse
from tests.support.aio import trio_test
from tests.support.memory_archive import MemoryArchive
from tests.support.memory_hosts import MemoryHost, MemoryStream, memory_network
from tests.support.mock_clock import mock_clock_test
from tests.unit.kernel_proc.protocols.vectors import exchanges, vectors

TOPIC = "/waku/2/rs/42/0"
CONTENT = "/t/1/vec/proto"

HASHES = st.binary(min_size=32, max_size=32)
TIMES = st.none() | st.integers(-(2**63), 2**63 - 1)


# --- codec ---


def test_every_frame_of_nwaku_reads_and_writes_back_the_same() -> None:
    seen = 0
    for vector in vectors("store"):
        assert vector.body is not None
        if vector.is_request and vector.protocol in ("store undecodable", "store no request id"):
            continue
        seen += 1
        if vector.is_request:
            body = codec.encode_request(codec.decode_request(vector.body))
            for always in (b"\xa0\x03\x00", b"\x10\x00"):  # direction and include_data, which others omit
                if always not in vector.body:
                    body = body.replace(always, b"", 1)
            assert body == vector.body
        else:
            assert codec.encode_response(codec.decode_response(vector.body)) == vector.body
    assert seen == 16


REQUESTS = st.builds(
    StoreRequest,
    st.text(),
    st.booleans(),
    st.none() | st.text(),
    st.lists(st.text(), max_size=3).map(tuple),
    TIMES,
    TIMES,
    st.lists(st.binary(max_size=40), max_size=3).map(tuple),
    st.none() | st.binary(max_size=40),
    st.booleans(),
    st.none() | st.integers(0, 2**64 - 1),
)
KEY_VALUES = st.builds(KeyValue, st.none() | HASHES, st.none() | st.binary(), st.none() | st.text())
RESPONSES = st.builds(
    StoreResponse,
    st.text(),
    st.integers(0, 2**32 - 1),
    st.text(),
    st.lists(KEY_VALUES, max_size=3).map(tuple),
    st.none() | HASHES,
)


@given(REQUESTS, RESPONSES)
def test_messages_come_back(request: StoreRequest, response: StoreResponse) -> None:
    assert codec.decode_request(codec.encode_request(request)) == request
    assert codec.decode_response(codec.encode_response(response)) == response


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(body: bytes) -> None:
    for decode in (codec.decode_request, codec.decode_response):
        try:
            decode(body)
        except ProtobufError:
            continue


# --- service ---


class Canned(MemoryArchive):
    """Answers as scripted."""

    def __init__(self, page: HistoryPage | None) -> None:
        super().__init__()
        self.page = page

    async def query(self, query: HistoryQuery) -> HistoryPage:
        await trio.lowlevel.checkpoint()
        self.queries.append(query)
        if self.page is None:
            raise CursorNotFound("cursor not found")
        return self.page


def service(archive: MemoryArchive) -> StoreService:
    return StoreService(MemoryHost(None, "far"), archive, Registry(""))  # type: ignore[arg-type]


@mock_clock_test
async def test_nwakus_exchanges_give_the_same_answers() -> None:
    asked: dict[str, HistoryQuery] = {}
    for name, (request, expected) in exchanges("store").items():
        assert request is not None
        assert expected is not None
        response = codec.decode_response(expected)
        page = HistoryPage(
            tuple(ArchivedMessage(m.message_hash or b"", m.pubsub_topic, m.data) for m in response.messages),
            response.cursor,
        )
        archive = Canned(page if response.status == 200 else None)
        assert await service(archive).answer("peer", request) == expected, name
        if archive.queries:
            asked[name] = archive.queries[0]
    content = HistoryQuery(pubsub_topic=TOPIC, content_topics=(CONTENT,), limit=2)
    assert asked["store query data"] == replace(content, include_data=True, forward=True)
    assert asked["store query no data, field 52 absent"] == content
    assert asked["store query backward"] == content
    looked_up = asked["store hash lookup"]
    assert (len(looked_up.hashes), looked_up.forward, looked_up.limit) == (2, False, 20)
    window = asked["store time range end==ts"]
    assert window.start == window.end
    assert window.start is not None
    assert asked["store unknown cursor"].cursor == b"\x22" * 32
    assert len(asked) == 6


async def answer(archive: MemoryArchive, request: StoreRequest) -> StoreResponse:
    return codec.decode_response(await service(archive).answer("peer", codec.encode_request(request)))


@pytest.mark.parametrize(
    ("limit", "effective"), [(None, 20), (0, 20), (1, 1), (100, 100), (101, 100), (2**64 - 1, 100)]
)
def test_page_sizes(limit: int | None, effective: int) -> None:
    @mock_clock_test
    async def check() -> None:
        archive = MemoryArchive()
        for number in range(120):
            archive.put(TOPIC, WakuMessage(b"x", CONTENT, timestamp=number))
        response = await answer(archive, StoreRequest("id", limit=limit))
        assert (response.status, len(response.messages)) == (200, effective)
        assert response.cursor == response.messages[0].message_hash  # backward: the oldest of the page

    check()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (StoreRequest("id", hashes=(b"short",)), "BAD_REQUEST: a message hash has 32 bytes, not 5"),
        (StoreRequest("id", cursor=bytes(33)), "BAD_REQUEST: a cursor has 32 bytes, not 33"),
        (StoreRequest("id", cursor=b""), "BAD_REQUEST: a cursor has 32 bytes, not 0"),
        (StoreRequest("id", hashes=(bytes(32),) * 1001), "BAD_REQUEST: 1001 message hashes"),
        (StoreRequest("id", content_topics=("x",) * 101), "BAD_REQUEST: 101 content topics"),
    ],
)
def test_queries_that_cannot_be_asked(request_: StoreRequest, text: str) -> None:
    @mock_clock_test
    async def check() -> None:
        response = await answer(MemoryArchive(), request_)
        assert (response.request_id, response.status) == ("id", 400)
        assert response.description.startswith(text)

    check()


@mock_clock_test
async def test_all_filters_are_anded() -> None:
    archive = MemoryArchive()
    one = archive.put(TOPIC, WakuMessage(b"1", CONTENT, timestamp=1))
    two = archive.put(TOPIC, WakuMessage(b"2", "/other", timestamp=2))
    archive.put("elsewhere", WakuMessage(b"3", CONTENT, timestamp=3))
    mixed = StoreRequest("id", content_topics=(CONTENT,), hashes=(one, two), start=1, end=2)
    assert [m.message_hash for m in (await answer(archive, mixed)).messages] == [one]
    only_topic = StoreRequest("id", pubsub_topic=TOPIC, end=2)  # inclusive, as nwaku has it
    assert [m.message_hash for m in (await answer(archive, only_topic)).messages] == [one, two]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ArchiveBusy("32 wait at /var/lib/node"), "too many queries are waiting"),
        (ArchiveUnavailable("postgres://waku:secret@db: refused"), "the archive cannot be read now"),
        (ArchiveUnavailable("/var/lib/node/store.sqlite3: disk I/O error"), "the archive cannot be read now"),
    ],
)
def test_archive_errors_reach_peers_as_a_fixed_text(error: ArchiveError, text: str) -> None:
    @mock_clock_test
    async def check() -> None:
        archive = MemoryArchive()
        archive.error = error
        response = await answer(archive, StoreRequest("id"))
        assert response == StoreResponse("id", 503, f"SERVICE_UNAVAILABLE: {text}")

    check()


@given(st.binary(max_size=300))
def test_any_bytes_are_answered(body: bytes) -> None:
    @mock_clock_test
    async def check() -> None:
        response = codec.decode_response(await service(MemoryArchive()).answer("peer", body))
        assert response.status in (200, 300, 400)

    check()


@pytest.mark.parametrize("forward", [True, False])
def test_a_page_that_js_waku_could_not_read_ends_early(forward: bool) -> None:
    big = [ArchivedMessage(bytes([number]) * 32, TOPIC, bytes(1 << 20)) for number in range(9)]
    page = cut(HistoryPage(tuple(big), None), forward=forward)
    assert sum(len(message.data or b"") for message in page.messages) <= MAX_PAGE_BYTES
    kept = big[:3] if forward else big[-3:]
    assert list(page.messages) == kept
    assert page.cursor == (kept[-1] if forward else kept[0]).message_hash
    huge = HistoryPage((ArchivedMessage(bytes(32), TOPIC, bytes(9 << 20)), big[0]), b"c" * 32)
    assert len(cut(huge, forward=True).messages) == 1
    small = HistoryPage(tuple(big[:2]), b"c" * 32)
    assert cut(small, forward=forward) is small


# --- client: one page ---

MESSAGES = [WakuMessage(bytes([n]), CONTENT, timestamp=n) for n in range(1, 31)]


def entry(message: WakuMessage, topic: str = TOPIC) -> KeyValue:
    return KeyValue(message_hash(topic, message), encode_message(message), topic)


QUERY = HistoryQuery(
    pubsub_topic=TOPIC, content_topics=(CONTENT,), start=1, end=10, limit=3, include_data=True
)
GOOD = StoreResponse("id", 200, "OK", tuple(entry(m) for m in MESSAGES[:3]), bytes(32))


def test_a_true_page() -> None:
    found, cursor = read_page(QUERY, "id", GOOD)
    assert [f.message for f in found] == MESSAGES[:3]
    assert cursor == bytes(32)
    assert read_page(QUERY, "id", GOOD._replace(request_id=""))[0] == found
    bare = tuple(m._replace(pubsub_topic=None) for m in GOOD.messages)
    assert read_page(QUERY, "id", GOOD._replace(messages=bare))[0] == found
    assert read_page(QUERY, "id", GOOD._replace(messages=())) == ((), None)
    hashes = replace(QUERY, include_data=False)
    assert [f.message for f in read_page(hashes, "id", GOOD)[0]] == [None] * 3


LIES: dict[str, StoreResponse] = {
    "another request id": GOOD._replace(request_id="other"),
    "3 requested": GOOD._replace(messages=tuple(entry(m) for m in MESSAGES[:4])),
    "does not match its hash": GOOD._replace(
        messages=(entry(MESSAGES[0])._replace(data=entry(MESSAGES[1]).data),)
    ),
    "without a hash": GOOD._replace(messages=(entry(MESSAGES[0])._replace(message_hash=None),)),
    "without data": GOOD._replace(messages=(entry(MESSAGES[0])._replace(data=None),)),
    "undecodable": GOOD._replace(messages=(entry(MESSAGES[0])._replace(data=b"\xff"),)),
    "duplicate message": GOOD._replace(messages=(entry(MESSAGES[0]),) * 2),
    "invalid cursor": GOOD._replace(cursor=b"short"),
    "outside the query": GOOD._replace(messages=(entry(MESSAGES[20]),)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_page_that_was_not_asked_for(lie: str) -> None:
    with pytest.raises(BadAnswer, match=lie):
        read_page(QUERY, "id", LIES[lie])


def test_other_ways_of_being_outside() -> None:
    for foreign in (
        entry(MESSAGES[0]._replace(content_topic="/x")),
        entry(MESSAGES[0], "/waku/2/rs/42/1"),
        entry(MESSAGES[0]._replace(timestamp=0)),
    ):
        with pytest.raises(BadAnswer, match="outside the query"):
            read_page(QUERY, "id", GOOD._replace(messages=(foreign,)))
    lookup = HistoryQuery(hashes=(entry(MESSAGES[0]).message_hash or b"",))
    with pytest.raises(BadAnswer, match="not requested"):
        read_page(lookup, "id", GOOD._replace(messages=(entry(MESSAGES[1]),)))
    with pytest.raises(BadAnswer, match="invalid cursor"):
        read_page(replace(QUERY, cursor=bytes(32)), "id", GOOD)


@pytest.mark.parametrize(
    ("status", "final"), [(300, False), (400, True), (429, False), (503, False), (0, False)]
)
def test_refusals(status: int, final: bool) -> None:
    with pytest.raises(RequestRefused) as refused:
        read_page(QUERY, "id", StoreResponse("N/A", status, "why"))
    assert (refused.value.status, refused.value.final) == (status, final)


# --- client: with peers ---


def full() -> MemoryArchive:
    archive = MemoryArchive()
    for message in MESSAGES:
        archive.put(TOPIC, message)
    return archive


Answer = Callable[[StoreRequest], StoreResponse | bytes | None]


@asynccontextmanager
async def client(**peers: MemoryArchive | Answer) -> AsyncIterator[tuple[StoreClient, MemoryHost]]:
    """Peers with an archive each, or with answers of their own."""
    async with memory_network() as network:
        near = network.host("near")
        for peer_id, what in peers.items():
            host = network.host(peer_id)
            if isinstance(what, MemoryArchive):
                StoreService(host, what, Registry("")).service.mount()
            else:
                host.handlers[PROTOCOL] = answering(what)  # type: ignore[assignment]
        service_peers = ServicePeerChoice(
            near, PeerRanking(trio.current_time, Random(3)), lambda _p: None, {}
        )
        yield StoreClient(near, service_peers, Registry(""), max_message_size=153_600), near


def answering(what: Answer) -> Callable[[MemoryStream], object]:
    async def handle(stream: MemoryStream) -> None:
        request = codec.decode_request(await MessageReader(stream, 1 << 20).read() or b"")
        response = what(request)
        if response is not None:
            body = response if isinstance(response, bytes) else codec.encode_response(response)
            await stream.write(encode_frame(body))

    return handle


async def ask(one: StoreClient, query: HistoryQuery, **more: int | str) -> History:
    return await one.query(query, deadline=trio.current_time() + 10, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("limit", [1, 7, 30, 100])
@pytest.mark.parametrize("data", [True, False])
def test_pages_are_followed_to_the_end(forward: bool, limit: int, data: bool) -> None:
    @mock_clock_test
    async def check() -> None:
        async with client(far=full()) as (one, near):
            query = HistoryQuery(pubsub_topic=TOPIC, forward=forward, limit=limit, include_data=data)
            history = await ask(one, query, max_messages=1000)
            hashes = [message_hash(TOPIC, message) for message in MESSAGES]
            assert [found.message_hash for found in history.messages] == hashes
            assert history.cursor is None
            if data:
                assert [found.message for found in history.messages] == MESSAGES
            assert len(near.opened) == -(-30 // limit)

    check()


@given(st.integers(), st.booleans(), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=40)
def test_any_division_into_requests_gives_the_same(
    seed: int, forward: bool, limit: int, max_messages: int
) -> None:
    """Also through the own archive."""
    random = Random(seed)

    @mock_clock_test
    async def check() -> None:
        archive = full()
        async with client(far=archive) as (one, _):
            start = HistoryQuery(pubsub_topic=TOPIC, forward=forward, limit=limit, include_data=True)
            everything: list[WakuMessage | None] = []
            query = start
            while True:
                bounds = {"max_messages": max_messages, "max_bytes": random.randint(1, 300)}
                if random.choice((True, False)):
                    history = await local_history(archive, "me", query, **bounds)
                else:
                    history = await ask(one, query, **bounds)
                assert 0 < len(history.messages) <= max_messages
                part = [found.message for found in history.messages]
                everything = everything + part if forward else part + everything
                if history.cursor is None:
                    break
                query = replace(query, cursor=history.cursor)
            assert everything == MESSAGES

    check()


@mock_clock_test
async def test_without_max_messages_it_is_one_page() -> None:
    async with client(far=full()) as (one, near):
        history = await ask(one, HistoryQuery(pubsub_topic=TOPIC, forward=True, limit=5))
        assert len(history.messages) == 5
        assert history.cursor == message_hash(TOPIC, MESSAGES[4])
        assert len(near.opened) == 1


@trio_test()
async def test_a_large_page_does_not_hold_up_the_loop() -> None:
    """Some services answer with all that was asked for, however large. Taking 15 MB apart and hashing them
    took 40 ms, in which nothing else ran; in a thread, other tasks have their turns meanwhile."""
    messages = [WakuMessage(bytes([n]) * 120_000, CONTENT, timestamp=n + 1) for n in range(100)]
    entries = tuple(KeyValue(message_hash(TOPIC, m), encode_message(m), TOPIC) for m in messages)
    where: list[int] = []

    def checked(*arguments: Any) -> Any:
        where.append(threading.get_ident())
        return read_page(*arguments)

    def answer(request: StoreRequest) -> StoreResponse:
        return StoreResponse(request.request_id, 200, "OK", entries[: request.limit])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_client, "read_page", checked)
        async with client(far=answer) as (one, _):
            small = HistoryQuery(pubsub_topic=TOPIC, include_data=True, limit=1)
            large = HistoryQuery(pubsub_topic=TOPIC, include_data=True, limit=100)
            assert len((await ask(one, small)).messages) == 1
            assert [found.message for found in (await ask(one, large)).messages] == messages
    assert where[0] == threading.get_ident()
    assert where[1] != threading.get_ident()


@trio_test()
async def test_a_large_answer_that_lies_is_refused_all_the_same() -> None:
    forged = KeyValue(bytes(32), encode_message(WakuMessage(bytes(1_500_000), CONTENT, timestamp=1)), TOPIC)

    def liar(request: StoreRequest) -> StoreResponse:
        return StoreResponse(request.request_id, 200, "OK", (forged,))

    async with client(far=liar) as (one, _):
        query = HistoryQuery(pubsub_topic=TOPIC, include_data=True)
        with pytest.raises(AllFailed, match="does not match its hash"):
            await ask(one, query)


@mock_clock_test
async def test_presence_of_hashes() -> None:
    async with client(far=full()) as (one, _):
        there = [message_hash(TOPIC, message) for message in MESSAGES[:3]]
        history = await ask(one, HistoryQuery(hashes=(bytes(32), *there), limit=100))
        assert [found.message_hash for found in history.messages] == there


@mock_clock_test
async def test_liars_and_the_silent_are_passed_over() -> None:
    def liar(request: StoreRequest) -> StoreResponse:
        return StoreResponse(request.request_id, 200, "OK", (KeyValue(bytes(32), b"\xff", TOPIC),))

    async with client(a=liar, b=lambda _r: None, c=lambda _r: b"\xff", d=full()) as (one, near):
        query = HistoryQuery(pubsub_topic=TOPIC, include_data=True)
        assert (await ask(one, query)).peer_id == "d"
        near.opened.clear()
        assert (await ask(one, query)).peer_id == "d"
        assert [peer for peer, _ in near.opened] == ["d"]
        with pytest.raises(AllFailed, match="undecodable"):
            await ask(one, query, peer="a")


@mock_clock_test
async def test_when_a_later_page_fails_the_earlier_ones_are_returned() -> None:
    archive = full()
    far = service(archive)
    pages = 0

    async def fails_later(stream: MemoryStream) -> None:
        nonlocal pages
        pages += 1
        body = await MessageReader(stream, 1 << 20).read() or b""
        if pages < 3:
            await stream.write(encode_frame(await far.answer("near", body)))

    async with client(far=full()) as (one, near):
        near._network.hosts["far"].handlers[PROTOCOL] = fails_later  # type: ignore[assignment]
        query = HistoryQuery(pubsub_topic=TOPIC, forward=True, limit=4)
        history = await ask(one, query, max_messages=100)
        assert len(history.messages) == 8
        assert history.cursor == message_hash(TOPIC, MESSAGES[7])


@mock_clock_test
async def test_an_unknown_cursor_may_be_known_to_another() -> None:
    cursor = message_hash(TOPIC, MESSAGES[4])
    async with client(empty=MemoryArchive(), full=full()) as (one, _):
        history = await ask(one, HistoryQuery(cursor=cursor, limit=100))
        assert (history.peer_id, len(history.messages)) == ("full", 4)


@mock_clock_test
async def test_endless_pages_end() -> None:
    count = 0

    def endless(request: StoreRequest) -> StoreResponse:
        nonlocal count
        first = count
        count += 3
        hashes = [number.to_bytes(32, "big") for number in range(first, count)]
        return StoreResponse(request.request_id, 200, "OK", tuple(map(KeyValue, hashes)), hashes[-1])

    async with client(far=endless) as (one, _):
        history = await ask(one, HistoryQuery(forward=True, limit=3), max_messages=50)
        assert len(history.messages) == 50 or count <= 51
        assert history.cursor is not None


@mock_clock_test
async def test_a_slow_peer_leaves_time_for_another() -> None:
    async with client(a=full(), b=full()) as (one, near):

        async def slow(stream: MemoryStream) -> None:
            await trio.sleep_forever()

        near._network.hosts["a"].handlers[PROTOCOL] = slow  # type: ignore[assignment]
        for _ in range(5):
            assert (await ask(one, HistoryQuery(pubsub_topic=TOPIC))).peer_id == "b"
