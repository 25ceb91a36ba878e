"""Our outbound relay stream to one peer: open it, write to it from one task, reopen it when it ends.

libp2p pubsub uses one unidirectional stream per direction: we write on the stream that we opened and read on
the one that the peer opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from ipc_schema.backoff import retry_delay
from kernel_proc.p2p.api import Host, NotConnected, ProtocolNotSupported, Stream, StreamClosed
from kernel_proc.relay.outbox import Outbox
from kernel_proc.relay.params import RELAY_PROTOCOL, RelayParams
from kernel_proc.relay.rpc import Subscription
from kernel_proc.relay.rpc_writer import encode_control, encode_subscriptions
from kernel_proc.relay.state import OutgoingRpc, Peer

_STEADY: Final = 30.0
"""Seconds after which the end of a stream no longer counts as a failure."""


class PeerLink:
    """The outbound side of one peer: its outbox and the task that drains it.

    `hello` returns what every new stream starts with (subscriptions, mesh); `lost` is called when a stream
    has ended. `run` returns when the peer is disconnected, does not speak relay, or `reopen_attempts` streams
    in a row have failed.
    """

    def __init__(
        self,
        host: Host,
        peer: Peer,
        params: RelayParams,
        counters: dict[str, int],
        hello: Callable[[PeerLink], OutgoingRpc],
        lost: Callable[[PeerLink], None],
    ) -> None:
        self.peer = peer
        self.inbound: Stream | None = None
        """The stream on which the peer currently sends to us, if any."""
        self.inbound_count = 0
        self.scope = trio.CancelScope()
        """The cancel scope of `run`."""
        self.readers: set[trio.CancelScope] = set()
        """The cancel scopes of the inbound readers, which run in the host's tasks."""
        self._host = host
        self._params = params
        self._counters = counters
        self._hello = hello
        self._lost = lost
        self._outbox = Outbox(params.queues)
        self._stream: Stream | None = None
        """Our stream to the peer, while one is open."""
        self._announced: set[str] = set()
        """Topics the peer may believe we are subscribed to."""
        self._lost_control = False
        """A control frame was dropped on this stream: resend the hello once there is room."""
        self._stalled = False
        self._nursery: trio.Nursery | None = None
        """Of the writer, while a stream is open."""
        self._writer_runs = False
        self._room = trio.Event()

    @property
    def peer_id(self) -> str:
        return self.peer.peer_id

    @property
    def is_open(self) -> bool:
        return self._stream is not None

    @property
    def queued_bytes(self) -> int:
        return self._outbox.size

    def close(self) -> None:
        """Stop reading and writing because the peer has disconnected."""
        self.scope.cancel()
        for reader in self.readers:
            reader.cancel()
        self._room.set()

    # -- the queue --------------------------------------------------------------------------------------

    def offer(self, frame: bytes, message_id: bytes) -> bool:
        """Send a message, or queue it. Return False if the queue is full."""
        if self._send_now(frame):
            return True
        if self._outbox.put_message(frame, message_id):
            self._wake_writer()
            return True
        return False

    def forward(self, frame: bytes, message_id: bytes) -> None:
        """Queue a forwarded message; drop and count it if the queue is full. A slow peer must not delay
        the others."""
        if not self.offer(frame, message_id):
            self._counters["dropped_messages"] += 1
            self._counters["dropped_bytes"] += len(frame)

    def _send_now(self, frame: bytes) -> bool:
        """Write the frame in this call if nothing waits before it, without running a task for it."""
        peer, stream = self.peer, self._stream
        if stream is None or self._outbox or self._lost_control or peer.dont_want or peer.dont_want_old:
            return False
        return stream.write_now(frame)

    async def wait_and_offer(self, frame: bytes, message_id: bytes, deadline: float) -> bool:
        """Queue a message of our own, waiting for room until `deadline` (trio clock).

        A peer that missed one deadline is not waited for again until it has read something.
        """
        while not self.offer(frame, message_id):
            if self._stalled or self.scope.cancel_called:
                return False
            with trio.move_on_at(deadline) as waiting:
                await self._room.wait()
            if waiting.cancelled_caught:
                self._stalled = True
                return self.offer(frame, message_id)
        return True

    def send(self, outgoing: OutgoingRpc) -> None:
        """Queue control and requested messages. Without an open stream, subscriptions and GRAFTs are
        dropped: the hello of the next stream carries them."""
        limit = self._params.max_rpc_size
        if self._stream is not None:
            if outgoing.subscriptions:
                self._announced.update(s.topic for s in outgoing.subscriptions if s.subscribe)
                if self._put_control(encode_subscriptions(outgoing.subscriptions, limit)):
                    self._announced.difference_update(
                        s.topic for s in outgoing.subscriptions if not s.subscribe
                    )
        else:
            outgoing.control.graft = []
        if outgoing.control:
            self._put_control(encode_control(outgoing.control, limit))
        for message in outgoing.messages:
            self.forward(message.frame, message.message_id)

    def _put_control(self, frames: list[bytes]) -> bool:
        dropped = sum(not self._outbox.put_control(frame) for frame in frames)
        if dropped:
            self._counters["dropped_control"] += dropped
            self._lost_control = True
        self._wake_writer()
        return not dropped

    def _greet(self) -> None:
        """Put the hello at the head of the queue: subscriptions (including ended ones) and mesh
        membership."""
        hello = self._hello(self)
        current = {s.topic for s in hello.subscriptions}
        ended = [Subscription(False, topic) for topic in sorted(self._announced - current)]
        self._announced = current
        self._lost_control = False
        limit = self._params.max_rpc_size
        self._outbox.put_first(
            encode_subscriptions([*ended, *hello.subscriptions], limit) + encode_control(hello.control, limit)
        )

    # -- the stream -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a stream open and drain the outbox into it. Raise nothing but cancellation."""
        failures = 0
        with self.scope:
            while failures < self._params.reopen_attempts:
                if failures:
                    params = self._params
                    await trio.sleep(retry_delay(failures, params.reopen_delay, 2.0, params.reopen_delay_max))
                try:
                    stream = await self._host.open_stream(self.peer_id, (RELAY_PROTOCOL,))
                except (NotConnected, ProtocolNotSupported):
                    return
                except StreamClosed:
                    failures += 1
                    continue
                opened = trio.current_time()
                # One oversized or malformed RPC ends nwaku's read loop while it still lists us as connected.
                # Only EOF on our own stream shows it, so reopen and resend subscriptions and mesh (measured
                # against nwaku).
                await self._serve(stream)
                self._counters["streams_lost"] += 1
                self._lost(self)
                failures = 1 if trio.current_time() - opened >= _STEADY else failures + 1
            self._counters["peers_given_up"] += 1

    async def _serve(self, stream: Stream) -> None:
        """Write until either side ends the stream."""
        self._counters["streams_opened"] += 1
        self._greet()
        try:
            async with trio.open_nursery() as nursery:
                self._stream, self._nursery = stream, nursery
                self._wake_writer()
                try:
                    await self._watch(stream)
                finally:
                    self._stream = self._nursery = None
                    nursery.cancel_scope.cancel()
        finally:
            self._writer_runs = False
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()

    def _wake_writer(self) -> None:
        """Start the writer unless it runs: an idle link has no task for it."""
        if not self._writer_runs and self._nursery is not None and self._stream is not None:
            self._writer_runs = True
            self._nursery.start_soon(self._write, self._stream)

    async def _write(self, stream: Stream) -> None:
        """Write until the outbox is empty. The end of the stream is left to `_watch`."""
        outbox, peer = self._outbox, self.peer
        while True:
            # A lost control frame may have been a GRAFT, PRUNE or subscription: resynchronise instead of
            # guessing.
            if self._lost_control and not outbox.has_control:
                self._greet()
            unwanted = None if not (peer.dont_want or peer.dont_want_old) else self._unwanted
            data = outbox.take(unwanted)
            if not data:
                break
            try:
                await stream.write(data)
            except StreamClosed:
                return
            self._stalled = False
            room, self._room = self._room, trio.Event()
            room.set()
        self._writer_runs = False

    def _unwanted(self, message_id: bytes) -> bool:
        return not self.peer.wants(message_id)

    async def _watch(self, stream: Stream) -> None:
        """Wait for the end of the stream. Only we write on it, so any bytes read are a protocol violation."""
        try:
            while await stream.read(1024):
                self._counters["unexpected_bytes"] += 1
        except StreamClosed:
            pass
