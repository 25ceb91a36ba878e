"""DrainSocket over real zmq sockets, on both loops."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import zmq

from logos_sockets import open_dealer, open_router, open_subscriber
from logos_sockets.drain import DrainLimits, DrainSocket, PeerCredentials
from tests.unit.logos_client.support import both_loops, short_directory, until

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass
class Bench:
    """A context, a fresh ipc endpoint and every DrainSocket to close at the end."""

    context: Context
    endpoint: str
    sockets: list[DrainSocket] = field(default_factory=list)

    def own(self, socket: DrainSocket) -> DrainSocket:
        self.sockets.append(socket)
        return socket

    def router(self, *, hwm: int = 1_000) -> zmq.Socket[bytes]:
        socket = open_router(self.context, hwm=hwm, linger_ms=0)
        socket.bind(self.endpoint)
        return socket


@contextmanager
def bench() -> Iterator[Bench]:
    with short_directory() as directory:
        context: Context = zmq.Context()
        made = Bench(context, f"ipc://{directory}/s")
        try:
            yield made
        finally:
            for socket in made.sockets:
                socket.close()
            context.destroy(linger=0)


def drain(
    socket: zmq.Socket[bytes], on_message: Callable[[list[bytes]], None], **options: Any
) -> DrainSocket:
    return DrainSocket(asyncio.get_running_loop(), socket, on_message, **options)


def ignore(frames: list[bytes]) -> None:
    del frames


class CountingLoop:
    """The running loop, which counts what is called soon."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.called_soon = 0
        self.call_later = self._loop.call_later
        self.add_reader = self._loop.add_reader
        self.remove_reader = self._loop.remove_reader

    def call_soon(self, callback: Callable[[], object], /) -> asyncio.Handle:
        self.called_soon += 1
        return self._loop.call_soon(callback)


@both_loops()
async def test_the_edge_eaten_by_a_send_is_not_lost() -> None:
    """Task A sends while task B waits for a reply: the send may consume the wake-up of what just arrived."""
    with bench() as b:
        router: list[DrainSocket] = []
        router.append(b.own(drain(b.router(), lambda frames: void(router[0].send(frames)))))
        waiting: dict[bytes, asyncio.Future[None]] = {}
        dealer = b.own(
            drain(
                open_dealer(b.context, b.endpoint),
                lambda frames: waiting.pop(frames[0]).set_result(None),
            )
        )

        async def ask(number: int) -> None:
            key = number.to_bytes(4, "big")
            future = waiting[key] = asyncio.get_running_loop().create_future()
            assert dealer.send([key])
            await future

        async def talk(base: int) -> None:
            for number in range(200):
                await ask(base + number)
                if number % 7 == 0:
                    await asyncio.sleep(0)

        await asyncio.gather(*(talk(base * 1_000) for base in range(8)))
        assert dealer.counters.received == dealer.counters.sent == 1_600


@both_loops()
async def test_a_reply_that_arrives_while_we_only_send_is_read() -> None:
    """The classic stall: the socket is not touched again after the last send."""
    with bench() as b:
        peer = b.router()
        peer.setsockopt(zmq.RCVTIMEO, 5_000)
        got: list[bytes] = []
        dealer = b.own(
            drain(
                open_dealer(b.context, b.endpoint),
                lambda frames: got.append(frames[-1]),
            )
        )
        dealer.send([b"hello"])
        identity = await asyncio.to_thread(lambda: peer.recv_multipart()[0])
        for round_number in range(200):
            # The peer's message is in the socket's mailbox before our send, which processes the command.
            peer.send_multipart([identity, b"%d" % round_number])
            dealer.send([b"x"])
            await until(lambda n=round_number: len(got) == n + 1, what=f"message {round_number}")  # type: ignore[misc]
        assert got[-1] == b"199"


@both_loops()
async def test_a_send_that_is_alone_takes_no_turn_of_the_loop_and_a_burst_takes_one() -> None:
    with bench() as b:
        peer = b.own(drain(b.router(), lambda frames: void(peer.send(frames))))
        loop, got = CountingLoop(), 0

        def count(_: list[bytes]) -> None:
            nonlocal got
            got += 1

        dealer = b.own(DrainSocket(loop, open_dealer(b.context, b.endpoint), count))
        dealer.send([b"the connection is there"])
        await until(lambda: got == 1)
        for burst, turns in ((1, 0), (1, 0), (20, 1), (1, 0)):
            before, wanted = loop.called_soon, got + burst
            for _ in range(burst):
                dealer.send([b"request"])
            assert loop.called_soon - before == turns
            await until(lambda wanted=wanted: got == wanted)  # type: ignore[misc]


@both_loops()
async def test_a_message_shorter_than_agreed_costs_the_next_one_and_no_more() -> None:
    with bench() as b:
        peer = b.router()
        peer.setsockopt(zmq.RCVTIMEO, 5_000)
        got: list[list[bytes]] = []
        dealer = b.own(
            drain(open_dealer(b.context, b.endpoint), got.append, limits=DrainLimits(least_frames=3))
        )
        dealer.send([b"hello"])
        identity = await asyncio.to_thread(lambda: peer.recv_multipart()[0])
        for message in (b"abc", b"x", b"def", b"ghijk", b"lm"):
            peer.send_multipart([identity, *(bytes([frame]) for frame in message)])
        await until(lambda: sum(map(len, got)) == 14)
        seen = [b"".join(frames) for frames in got]
        assert b"".join(seen) == b"abcxdefghijklm"
        assert b"abc" in seen
        assert b"ghijk" in seen


@both_loops()
async def test_a_handler_that_raises_does_not_stop_the_reading() -> None:
    with bench() as b:
        faults: list[BaseException | None] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: faults.append(context.get("exception"))
        )
        got: list[bytes] = []

        def handle(frames: list[bytes]) -> None:
            if frames[-1] == b"bad":
                raise ValueError("bad")
            got.append(frames[-1])

        b.own(drain(b.router(), handle))
        dealer = b.own(drain(open_dealer(b.context, b.endpoint), ignore))
        for word in (b"one", b"bad", b"two", b"bad", b"bad", b"three"):
            dealer.send([word])
        await until(lambda: len(got) == 3)
        assert got == [b"one", b"two", b"three"]
        assert [type(fault) for fault in faults] == [ValueError] * 3


@both_loops()
async def test_a_flood_leaves_the_loop_its_turns() -> None:
    with bench() as b:
        source = b.context.socket(zmq.PUSH)
        source.setsockopt(zmq.SNDHWM, 0)
        sink = b.context.socket(zmq.PULL)
        sink.setsockopt(zmq.RCVHWM, 0)
        sink.bind("inproc://flood")
        source.connect("inproc://flood")
        for _ in range(5_000):
            source.send(b"x")
        seen = 0
        at_turns: list[int] = []

        def handle(frames: list[bytes]) -> None:
            nonlocal seen
            seen += 1

        b.own(drain(sink, handle, limits=DrainLimits(batch=100)))
        while seen < 5_000:
            await asyncio.sleep(0)
            at_turns.append(seen)
        # The descriptor and the scheduled drain may both run in one turn.
        assert max(after - before for before, after in itertools.pairwise(at_turns)) <= 200
        source.close(0)


@both_loops()
async def test_a_dealer_without_a_server_keeps_a_bounded_backlog_and_sends_it_later() -> None:
    with bench() as b:
        dealer = b.own(
            drain(
                open_dealer(b.context),
                ignore,
                limits=DrainLimits(backlog_messages=3, backlog_bytes=1_000),
            )
        )
        assert [dealer.send([b"%d" % n]) for n in range(4)] == [True, True, True, False]
        assert (dealer.counters.queued, dealer.counters.dropped, dealer.counters.dropped_bytes) == (3, 1, 1)
        assert dealer.backlog_bytes == 3
        got: list[bytes] = []
        b.own(drain(b.router(), lambda frames: got.append(frames[-1])))
        dealer.connect(b.endpoint)
        await until(lambda: len(got) == 3)
        assert got == [b"0", b"1", b"2"]
        assert dealer.backlog_bytes == 0


@both_loops()
async def test_the_backlog_is_bounded_in_bytes_and_can_be_dropped() -> None:
    with bench() as b:
        dealer = b.own(
            drain(
                open_dealer(b.context),
                ignore,
                limits=DrainLimits(backlog_bytes=100),
            )
        )
        assert dealer.send([b"a" * 60])
        assert not dealer.send([b"a" * 60])
        assert dealer.forget() == 1
        assert dealer.backlog_bytes == 0
        assert dealer.forget() == 0


@both_loops()
async def test_a_peer_that_does_not_read_costs_the_others_nothing() -> None:
    with bench() as b:
        peers: list[bytes] = []
        router = b.own(
            drain(
                b.router(hwm=2),
                lambda frames: peers.append(frames[0]),
                limits=DrainLimits(backlog_bytes=500_000),
            )
        )
        stuck = open_dealer(b.context, b.endpoint, hwm=2)
        stuck.send(b"hi")
        await until(lambda: len(peers) == 1)
        got: list[bytes] = []
        reader = b.own(
            drain(
                open_dealer(b.context, b.endpoint, hwm=2),
                lambda f: got.append(f[0]),
            )
        )
        reader.send([b"hi"])
        await until(lambda: len(peers) == 2)
        # Until the pipes, the kernel's buffers and the backlog of the stuck peer are full.
        taken = 0
        while router.send([peers[0], b"x" * 50_000]):
            taken += 1
            assert taken < 10_000
            await asyncio.sleep(0)
        assert 0 < router.backlog_bytes <= 500_000
        for number in range(50):
            assert router.send([peers[1], b"%d" % number])
        await until(lambda: len(got) == 50)
        # When it reads at last, it gets all that was taken, in order.
        received = 0
        while received < taken:
            received += await asyncio.to_thread(lambda: len(stuck.recv_multipart()))
        assert router.counters.dropped == 1
        stuck.close(0)


@both_loops()
async def test_who_was_refused_hears_when_there_is_room_again() -> None:
    with bench() as b:
        peers: list[bytes] = []
        writable: list[bytes] = []
        router = b.own(
            drain(
                b.router(hwm=2),
                lambda frames: peers.append(frames[0]),
                on_writable=writable.append,
                limits=DrainLimits(backlog_messages=5),
            )
        )
        reader = open_dealer(b.context, b.endpoint, hwm=2)
        reader.send(b"hi")
        await until(lambda: len(peers) == 1)
        taken = 0
        while router.send([peers[0], b"x" * 50_000]):
            taken += 1
            await asyncio.sleep(0)
        assert writable == []
        assert not router.send([peers[0], b"again"])
        for _ in range(taken):
            await asyncio.to_thread(reader.recv)
        await until(lambda: writable == peers)
        assert router.send([peers[0], b"now"])
        assert await asyncio.to_thread(reader.recv) == b"now"
        reader.close(0)


@both_loops()
async def test_a_peer_that_left_is_reported_and_its_backlog_is_gone() -> None:
    with bench() as b:
        peers: list[bytes] = []
        gone: list[bytes] = []
        router = b.own(
            drain(
                b.router(hwm=2),
                lambda frames: peers.append(frames[0]),
                on_unroutable=gone.append,
            )
        )
        visitor = open_dealer(b.context, b.endpoint, hwm=2)
        visitor.send(b"hi")
        await until(lambda: len(peers) == 1)
        while not router.backlog_bytes:
            router.send([peers[0], b"x" * 50_000])
            await asyncio.sleep(0)
        # What it took just before it left makes room for the backlog: then the next message finds it out.
        visitor.close(0)
        await until(lambda: bool(gone) or not router.send([peers[0], b"x" * 50_000]))
        await until(lambda: bool(gone))
        assert set(gone) == set(peers)
        assert router.backlog_bytes == 0
        assert router.counters.unroutable >= 1
        assert not router.send([peers[0], b"late"])
        assert not router.send([b"unknown", b"x"])
        assert gone[-1] == b"unknown"


@both_loops()
async def test_what_is_sent_soon_goes_out_in_order_with_the_rest() -> None:
    with bench() as b:
        got: list[int] = []
        b.own(drain(b.router(), lambda frames: got.append(int(frames[1]))))
        dealer = b.own(drain(open_dealer(b.context, b.endpoint), ignore))
        dealer.send([b"0"])
        await until(lambda: got == [0])
        assert dealer.send_soon([b"1"])
        assert dealer.send_soon([b"2"])
        assert dealer.counters.sent == 1, "not before the end of this turn"
        assert dealer.send([b"3"])
        assert dealer.counters.sent == 4
        for number in range(4, 304):
            assert dealer.send_soon([b"%d" % number, b"x" * (number % 7) * 5_000])
        await until(lambda: len(got) == 304)
        assert got == list(range(304))
        assert dealer.send_soon([b"304"])
        dealer.close()
        assert dealer.counters.sent == 305
        assert not dealer.send_soon([b"305"])


@both_loops()
async def test_what_is_promised_soon_waits_for_a_full_peer_beyond_the_bounds() -> None:
    with bench() as b:
        dealer = b.own(
            drain(
                open_dealer(b.context),
                ignore,
                limits=DrainLimits(backlog_messages=2),
            )
        )
        assert all(dealer.send_soon([b"%d" % number]) for number in range(10))
        await asyncio.sleep(0)
        assert dealer.counters.queued == 10
        assert not dealer.send_soon([b"10"]), "from now on its backlog is known to be full"
        got: list[bytes] = []
        b.own(drain(b.router(), lambda frames: got.append(frames[1])))
        dealer.connect(b.endpoint)
        await until(lambda: len(got) == 10)
        assert got == [b"%d" % number for number in range(10)]


@both_loops()
async def test_a_stream_leaves_answers_their_place_in_the_backlog() -> None:
    with bench() as b:
        peers: list[bytes] = []
        router = b.own(
            drain(
                b.router(hwm=2),
                lambda frames: peers.append(frames[0]),
                limits=DrainLimits(backlog_messages=20),
            )
        )
        reader = open_dealer(b.context, b.endpoint, hwm=2)
        reader.send(b"hi")
        await until(lambda: len(peers) == 1)
        taken = 0
        while router.send_soon([peers[0], b"event", b"x" * 20_000]):
            taken += 1
            assert taken < 10_000
            await asyncio.sleep(0)
        for _ in range(10):
            assert router.send([peers[0], b"answer"])
        heard = [await asyncio.to_thread(reader.recv_multipart) for _ in range(taken + 10)]
        assert [frames[0] for frames in heard] == [b"event"] * taken + [b"answer"] * 10
        reader.close(0)


@both_loops()
async def test_pause_and_resume() -> None:
    with bench() as b:
        got: list[bytes] = []
        router = b.own(drain(b.router(), lambda frames: got.append(frames[-1])))
        dealer = b.own(drain(open_dealer(b.context, b.endpoint), ignore))
        dealer.send([b"before"])
        await until(lambda: len(got) == 1)
        router.pause()
        assert router.paused
        for _ in range(10):
            dealer.send([b"held"])
        await until(lambda: dealer.backlog_bytes == 0)
        assert len(got) == 1
        router.resume()
        await until(lambda: len(got) == 11)


@both_loops()
async def test_close_inside_a_handler_ends_the_reading_at_once() -> None:
    with bench() as b:
        got: list[bytes] = []
        router: list[DrainSocket] = []

        def handle(frames: list[bytes]) -> None:
            got.append(frames[-1])
            router[0].close()

        router.append(b.own(drain(b.router(), handle)))
        dealer = b.own(drain(open_dealer(b.context, b.endpoint), ignore))
        for word in (b"one", b"two", b"three"):
            dealer.send([word])
        await until(lambda: router[0].closed)
        assert got == [b"one"]
        assert not router[0].send([b"x", b"y"])
        router[0].close()


@both_loops()
async def test_a_subscriber_gets_its_topics_only() -> None:
    with bench() as b:
        publisher = b.context.socket(zmq.XPUB)
        publisher.bind(b.endpoint)
        publisher.setsockopt(zmq.RCVTIMEO, 5_000)
        got: list[bytes] = []
        subscriber = b.own(
            drain(
                open_subscriber(b.context, b.endpoint),
                lambda frames: got.append(frames[1]),
            )
        )
        subscriber.subscribe(b"m/1/1\0")
        assert await asyncio.to_thread(publisher.recv) == b"\x01m/1/1\0"
        publisher.send_multipart([b"m/1/10\0", b"other"])
        publisher.send_multipart([b"m/1/1\0", b"mine"])
        await until(lambda: bool(got))
        assert got == [b"mine"]
        subscriber.unsubscribe(b"m/1/1\0")
        assert await asyncio.to_thread(publisher.recv) == b"\x00m/1/1\0"
        publisher.close(0)


@both_loops()
async def test_who_sent_a_message_is_known_while_it_is_handled() -> None:
    with bench() as b:
        seen: list[PeerCredentials | None] = []
        router: list[DrainSocket] = []
        router.append(
            b.own(
                drain(
                    b.router(),
                    lambda _frames: seen.append(router[0].peer_credentials()),
                )
            )
        )
        dealer = b.own(drain(open_dealer(b.context, b.endpoint), ignore))
        dealer.send([b"a", b"b"])
        await until(lambda: bool(seen))
        assert seen == [PeerCredentials(os.getuid(), os.getgid(), os.getpid())]
        assert router[0].peer_credentials() is None


def void(_: object) -> None:
    """For handlers whose result is of no interest."""


@both_loops()
async def test_a_context_that_ends_ends_the_socket_instead_of_spinning() -> None:
    context: Context = zmq.Context()
    socket = drain(open_dealer(context), ignore)
    ending = asyncio.get_running_loop().run_in_executor(None, context.term)
    await until(lambda: socket.closed)
    await ending
