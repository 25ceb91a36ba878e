"""Store queries of js-waku's SDK: each shape, paged both ways, over WebSocket and mplex."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from ipc_schema.message import message_hash
from tests.interop.inbox import CommandError
from tests.interop.sdk.light_node import JsMessage, LightNode
from tests.interop.sdk.network import TOPIC, Served, served

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

MANY = "/interop/1/many/proto"
FEW = "/interop/1/few/proto"
LARGE = "/interop/1/large/proto"
MS = 1_000_000
KIB = 1024


STEP_MS = 4
"""js-waku makes nanoseconds of milliseconds in floating point: only multiples of 256 ns come out right."""


class History:
    """Messages of two content topics, every tenth is of `FEW`, `STEP_MS` apart."""

    def __init__(self, network: Served) -> None:
        self.network = network
        self.start_ms = time.time_ns() // MS // STEP_MS * STEP_MS
        self.topics = [FEW if number % 10 == 9 else MANY for number in range(140)]
        self.hashes = [
            network.publish(topic, b"%d" % number, self.timestamp(number), meta=b"m" if number % 2 else b"")
            for number, topic in enumerate(self.topics)
        ]
        network.stored(self.hashes)

    def timestamp(self, number: int) -> int:
        return (self.start_ms + STEP_MS * number) * MS

    def of(self, topic: str) -> list[bytes]:
        return [digest for digest, its in zip(self.hashes, self.topics, strict=True) if its == topic]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with served("--store=true") as network:
        yield History(network)


@pytest.fixture(scope="module")
def js(history: History, sdk_packages: None) -> Iterator[LightNode]:
    with LightNode() as node:
        node.join(history.network.service.ws_address)
        yield node


def hashes(page: Sequence[JsMessage | None]) -> list[bytes]:
    """js-waku's own hashes, each compared with ours over what it decoded."""
    found = []
    for entry in page:
        assert entry is not None
        assert entry.pubsub_topic == TOPIC
        assert entry.hash == message_hash(entry.pubsub_topic, entry.message)
        found.append(entry.hash)
    return found


def every(pages: Sequence[Sequence[JsMessage | None]]) -> list[bytes]:
    return [digest for page in pages for digest in hashes(page)]


def in_pages(wanted: list[bytes], size: int) -> list[list[bytes]]:
    return [wanted[at : at + size] for at in range(0, len(wanted), size)]


def test_content_topics_page_by_page(history: History, js: LightNode) -> None:
    wanted = history.of(MANY)
    pages = js.query(MANY)
    assert [hashes(page) for page in pages] == in_pages(wanted, 20)  # 20: where no limit is asked for
    first = pages[0][1]
    assert first is not None
    assert (first.message.payload, first.message.meta) == (b"1", b"m")
    assert first.message.timestamp == history.timestamp(1)
    assert [hashes(page) for page in js.query(MANY, limit=50)] == in_pages(wanted, 50)
    assert [len(page) for page in js.query(MANY, limit=1000)] == [100, 26]  # no page has more
    assert every(js.query(MANY, FEW, limit=100)) == history.hashes
    assert js.query("/interop/1/none/proto") == []


def test_backward(history: History, js: LightNode) -> None:
    wanted = history.of(FEW)
    pages = js.query(FEW, forward=False, limit=4)
    # The newest page first, and in each the oldest message first.
    assert [hashes(page) for page in pages] == [wanted[10:], wanted[6:10], wanted[2:6], wanted[:2]]


@pytest.mark.parametrize("forward", [True, False])
def test_from_a_message_on(history: History, js: LightNode, forward: bool) -> None:
    wanted = history.of(MANY)
    found = every(js.query(MANY, cursor=wanted[60], forward=forward, limit=100))
    assert found == (wanted[61:] if forward else wanted[:60])


@pytest.mark.parametrize("forward", [True, False])
def test_a_time_window_has_both_its_ends(history: History, js: LightNode, forward: bool) -> None:
    start, end = history.timestamp(30) // MS, history.timestamp(79) // MS
    pages = js.query(MANY, FEW, timeStartMs=start, timeEndMs=end, forward=forward, limit=20)
    expected = in_pages(history.hashes[30:80], 20)
    if not forward:
        expected = [history.hashes[60:80], history.hashes[40:60], history.hashes[30:40]]
    assert [hashes(page) for page in pages] == expected
    assert every(js.query(FEW, timeStartMs=end, timeEndMs=end)) == [history.hashes[79]]


def test_hashes_looked_up(history: History, js: LightNode) -> None:
    wanted = [bytes(32), *reversed(history.hashes)]
    for forward in (True, False):
        pages = js.query(MANY, FEW, hashes=wanted, forward=forward, limit=100)
        assert [len(page) for page in pages] == [100, 40]
        assert sorted(every(pages)) == sorted(history.hashes)
    assert js.query(MANY, hashes=[bytes(32)]) == []


def test_presence(history: History, js: LightNode) -> None:
    pages = js.query(MANY, hashes=[bytes(32), *history.hashes], data=False, limit=100)
    assert pages == [[None] * 100, [None] * 40]
    assert js.query(MANY, hashes=[bytes(32)], data=False) == []


def test_a_cursor_that_the_store_does_not_know(js: LightNode) -> None:
    with pytest.raises(CommandError, match="status code: 300, description: BAD_RESPONSE: archive error"):
        js.query(MANY, cursor=bytes([1]) * 32)


def test_pages_are_no_larger_than_js_waku_can_read(history: History, js: LightNode) -> None:
    """Its decoder takes 4 MiB: a page that would be longer ends early, and paging goes on from there."""
    now = time.time_ns() // MS * MS
    network = history.network
    wanted = [network.publish(LARGE, bytes(140 * KIB), now + number * MS) for number in range(40)]
    network.stored(wanted)
    for forward in (True, False):
        pages = js.query(LARGE, limit=100, forward=forward)
        assert len(pages) == 2
        assert sorted(every(pages)) == sorted(wanted)


def test_what_is_not_archived(history: History, js: LightNode) -> None:
    network, topic = history.network, "/interop/1/ephemeral/proto"
    now = time.time_ns()
    gone = network.publish(topic, b"gone", now, ephemeral=True)
    kept = network.publish(topic, b"kept", now + 1)
    network.stored([kept])
    assert gone not in every(js.query(topic))
    assert every(js.query(topic)) == [kept]
