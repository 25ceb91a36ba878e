"""KernelClient on a kernel without relay: all of its messages go through, and come from, another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipc_schema.message import WakuMessage, message_hash
from logos_client import (
    SOURCE_FILTER,
    BadRequestError,
    KernelClient,
    KernelMessage,
    NoPeersError,
    NotReadyError,
    blocking,
)
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

TOPIC = "/test/1/services/proto"
PUBSUB = "/waku/2/rs/0/0"
COUNT = 7


@contextmanager
def edge_of_a_network(directory: Path) -> Iterator[tuple[Path, str]]:
    """Run directory of a kernel without relay, and the peer id of the one that serves it and has a mesh."""
    options = ["--shard=0", "--ip-colocation-limit=0"]
    with (
        KernelProcess(directory / "s", "--store=true", "--rate-limit=lightpush:0/1s", *options) as service,
        KernelProcess(directory / "f", f"--staticnode={service.address()}", *options) as far,
        KernelProcess(directory / "e", "--relay=false", f"--staticnode={service.address()}") as edge,
    ):
        dealer = far.dealer()
        eventually(lambda: dealer.ok("relay.mesh")["topics"].get(PUBSUB))
        known = edge.dealer()
        eventually(
            lambda: any(
                "/vac/waku/store-query/3.0.0" in peer["protocols"] for peer in known.ok("peers.list")["peers"]
            )
        )
        yield edge.directory / "run", str(service.info("MyPeerId")["MyPeerId"])


def test_pushed_filtered_and_found_in_the_store() -> None:
    with (
        short_directory() as path,
        edge_of_a_network(path) as (run, peer),
        blocking.KernelClient.connect(run) as kernel,
    ):
        with pytest.raises(BadRequestError, match="no lease"):
            kernel.filter_subscribe(TOPIC)
        with kernel.events(shards=[0]) as feed:
            assert kernel.filter_subscribe([TOPIC]).held == {PUBSUB: {peer: (TOPIC,)}}
            with pytest.raises(NoPeersError):
                kernel.filter_subscribe(TOPIC, exclude=[peer])
            (found,) = kernel.filter_ping().peers
            assert (found.peer, found.status) == (peer, 200)

            pushed = [kernel.lightpush_publish(TOPIC, b"%d" % number) for number in range(COUNT)]
            assert {(done.peer, done.relay_peers) for done in pushed} == {(peer, 1)}
            got = [feed.next_event(10) for _ in pushed]
            for number, (event, done) in enumerate(zip(got, pushed, strict=True)):
                assert isinstance(event, KernelMessage)
                assert (event.payload, event.source) == (b"%d" % number, SOURCE_FILTER)
                assert event.message_hash == done.message_hash
            assert kernel.filter_unsubscribe(TOPIC).held == {}

        hashes = tuple(done.message_hash for done in pushed)
        eventually(lambda: len(kernel.store_query(hashes=hashes).hashes) == COUNT)
        pages = [kernel.store_query(TOPIC, limit=3, include_data=True)]
        while (cursor := pages[-1].cursor) is not None:
            pages.append(kernel.store_query(TOPIC, limit=3, include_data=True, cursor=cursor, peer=peer))
        assert [len(page.hashes) for page in pages] == [3, 3, 1]
        stored = [message for page in pages for message in page.messages]
        assert [one.message.payload for one in stored] == [b"%d" % number for number in range(COUNT)]
        assert [message_hash(one.pubsub_topic, one.message) for one in stored] == list(hashes)
        newest = kernel.store_query(TOPIC, forward=False, limit=2)
        assert newest.hashes == hashes[-2:]
        assert newest.cursor == hashes[-2]
        everything = kernel.store_query(TOPIC, limit=2, max_messages=100)
        assert (everything.hashes, everything.cursor, everything.messages) == (hashes, None, ())
        middle = kernel.store_query(time_start=pushed[2].timestamp, time_end=pushed[4].timestamp)
        assert middle.hashes == hashes[2:5]
        assert kernel.store_query(hashes=[bytes(32), hashes[5]]).hashes == (hashes[5],)

        with pytest.raises(BadRequestError, match="cursor not found") as refused:
            kernel.store_query(cursor=bytes([1]) * 32, peer=peer)
        attempts = refused.value.detail["attempts"]
        assert isinstance(attempts, list)
        assert attempts[0]["status"] == 300
        with pytest.raises(NotReadyError, match="store is off"):
            kernel.store_query(peer=str(kernel.info(["MyPeerId"])["MyPeerId"]))
        assert kernel.peer_exchange(count=10, peer=peer).peer == peer


@asyncio_test(60)
async def test_without_a_peer_to_ask() -> None:
    with short_directory() as path, KernelProcess(path / "k") as process:
        async with KernelClient.connect(process.directory / "run") as kernel:
            for ask in (
                kernel.store_query(TOPIC),
                kernel.lightpush_publish(TOPIC, b"x"),
                kernel.peer_exchange(),
            ):
                with pytest.raises(NoPeersError):
                    await ask
            with pytest.raises(NoPeersError) as caught:
                await kernel.lightpush_publish(TOPIC, b"x", timestamp=5)
            message = WakuMessage(b"x", TOPIC, timestamp=5)
            assert caught.value.detail["message_hash"] == message_hash(PUBSUB, message)
            assert (await kernel.filter_unsubscribe()).held == {}
            assert (await kernel.filter_ping()).peers == ()
            with pytest.raises(BadRequestError):
                await kernel.store_query(limit=101)
