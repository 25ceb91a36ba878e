"""The link to a peer: what is queued is written in order, by a task that lives only while something is
queued."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

from kernel_proc.p2p.api import Host, NotConnected, Stream
from kernel_proc.relay.link import PeerLink
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.scores import PeerScore
from kernel_proc.relay.service import COUNTERS
from kernel_proc.relay.state import OutgoingRpc, Peer
from tests.support.aio import trio_test
from tests.support.memory_hosts import MemoryStream, stream_pair


class OneStream:
    """A host that opens one stream, once."""

    def __init__(self) -> None:
        self.near, self.far = stream_pair("us", "them", "relay")
        self._opened = False

    async def open_stream(self, peer_id: str, protocols: Sequence[str], *, deadline: float = 10.0) -> Stream:
        await trio.lowlevel.checkpoint()
        if self._opened:
            raise NotConnected(peer_id)
        self._opened = True
        return self.near


class Linked:
    def __init__(self) -> None:
        self.host = OneStream()
        self.far: MemoryStream = self.host.far
        self.lost = 0
        self.counters = dict.fromkeys(COUNTERS, 0)
        host: Host = self.host  # type: ignore[assignment]
        peer = Peer("them", True, PeerScore(""))
        self.link = PeerLink(host, peer, RelayParams(), self.counters, lambda _: OutgoingRpc(), self._on_lost)

    def _on_lost(self, _link: PeerLink) -> None:
        self.lost += 1


@trio_test()
async def test_frames_are_written_in_order_and_an_idle_link_has_no_task_for_it() -> None:
    linked = Linked()
    assert linked.link.offer(b"early ", b"0")  # before there is a stream
    async with trio.open_nursery() as nursery:
        nursery.start_soon(linked.link.run)
        for burst in ((b"one ", b"two "), (b"three ",)):
            for frame in burst:
                assert linked.link.offer(frame, frame)
            await trio.testing.wait_all_tasks_blocked()
            assert linked.link._nursery is not None
            assert not linked.link._nursery.child_tasks
            assert linked.link.queued_bytes == 0
        assert await linked.far.read() == b"early one two three "
        await linked.far.reset()
    assert linked.lost == 1
    assert linked.counters["streams_lost"] == 1
    assert linked.link.offer(b"late", b"4")  # waits for a stream that may be opened
    assert linked.link.queued_bytes == len(b"late")


@trio_test()
async def test_a_peer_that_does_not_read_holds_nothing_but_its_own_queue() -> None:
    linked = Linked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(linked.link.run)
        await trio.testing.wait_all_tasks_blocked()
        stuck = trio.Event()

        async def never(data: bytes) -> None:
            await stuck.wait()
            raise AssertionError(data)

        linked.host.near.write = never  # type: ignore[method-assign]
        bound = RelayParams().queues.message_bytes
        frame = bytes(100_000)
        offered = 0
        while linked.link.offer(frame, b"id"):
            offered += len(frame)
            await trio.lowlevel.checkpoint()
        assert bound <= offered <= bound + 2 * len(frame)
        linked.link.forward(frame, b"id")
        assert linked.counters["dropped_messages"] == 1
        linked.link.close()
    assert not linked.link.is_open
