"""Our stream to one peer: opened, written by one task, watched for its end, opened again."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ipc_schema.backoff import retry_delay
from kernel_proc.p2p.api import Host, NotConnected, ProtocolNotSupported, Stream, StreamClosed
from kernel_proc.relay.outbox import Outbox
from kernel_proc.relay.params import RELAY_PROTOCOL, RelayParams
from kernel_proc.relay.rpc import Subscription
from kernel_proc.relay.rpc_writer import encode_control, encode_subscriptions
from kernel_proc.relay.state import OutgoingRpc, Peer

__all__ = ["PeerLink"]

_STEADY = 30.0
"""A stream that lived this long was no failure when it ends."""


class PeerLink:
    """The way to one peer: its outbox and the task that empties it.

    `hello` gives what every new stream begins with (subscriptions, mesh); `lost` is called when one has
    ended. `run` returns when the peer is not connected, does not speak relay, or has failed us
    `reopen_attempts` times in a row.
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
        """The stream on which the peer sends to us, while one is open."""
        self.inbound_count = 0
        self.scope = trio.CancelScope()
        """Around `run`."""
        self.readers: set[trio.CancelScope] = set()
        """Around the readers of inbound streams, which run in the host's tasks."""
        self._host = host
        self._params = params
        self._counters = counters
        self._hello = hello
        self._lost = lost
        self._outbox = Outbox(params.queues)
        self._open = False
        self._announced: set[str] = set()
        """Topics that the peer may take us to be subscribed to."""
        self._lost_control = False
        """Control was dropped on the present stream: once there is room, it has to hear the hello again."""
        self._stalled = False
        self._wake = trio.Event()
        self._room = trio.Event()

    @property
    def peer_id(self) -> str:
        return self.peer.peer_id

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def queued_bytes(self) -> int:
        return self._outbox.size

    def close(self) -> None:
        """Stop writing and reading: the peer has disconnected."""
        self.scope.cancel()
        for reader in self.readers:
            reader.cancel()
        self._room.set()

    # -- the queue --------------------------------------------------------------------------------------

    def offer(self, frame: bytes, message_id: bytes) -> bool:
        """Queue a message if there is room for it."""
        if self._outbox.put_message(frame, message_id):
            self._wake.set()
            return True
        return False

    def forward(self, frame: bytes, message_id: bytes) -> None:
        """Queue a forwarded message, or drop and count it: a slow peer must not delay the others."""
        if self._outbox.put_message(frame, message_id):
            self._wake.set()
        else:
            self._counters["dropped_messages"] += 1
            self._counters["dropped_bytes"] += len(frame)

    async def wait_and_offer(self, frame: bytes, message_id: bytes, deadline: float) -> bool:
        """Queue an own message, waiting for room until `deadline` (trio clock).

        A peer that let one deadline pass is not waited for again until it has taken something.
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
        """Queue control and what was asked for. Without an open stream, subscriptions and grafts are left to
        the hello of the next one."""
        limit = self._params.max_rpc_size
        if self._open:
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
        self._wake.set()
        return not dropped

    def _greet(self) -> None:
        """Put what the peer must know at the head of the queue: subscriptions, ended ones too, and mesh."""
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
        """Keep a stream open and written to. Never raises but for cancellation."""
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
                await self._serve(stream)
                self._counters["streams_lost"] += 1
                self._lost(self)
                failures = 1 if trio.current_time() - opened >= _STEADY else failures + 1
            self._counters["peers_given_up"] += 1

    async def _serve(self, stream: Stream) -> None:
        """Write until the stream ends, on whichever side."""
        self._counters["streams_opened"] += 1
        self._greet()
        self._open = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream, nursery.cancel_scope)
                await self._write(stream)
                nursery.cancel_scope.cancel()
        finally:
            self._open = False
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()

    async def _write(self, stream: Stream) -> None:
        outbox, peer = self._outbox, self.peer
        while True:
            if self._lost_control and not outbox.has_control:
                self._greet()
            unwanted = None if not (peer.dont_want or peer.dont_want_old) else self._unwanted
            data = outbox.take(unwanted)
            if not data:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            try:
                await stream.write(data)
            except StreamClosed:
                return
            self._stalled = False
            room, self._room = self._room, trio.Event()
            room.set()

    def _unwanted(self, message_id: bytes) -> bool:
        return not self.peer.wants(message_id)

    async def _watch(self, stream: Stream, scope: trio.CancelScope) -> None:
        """Wait for the end of the stream: only we write on it, so nothing else can be read."""
        try:
            while await stream.read(1024):
                self._counters["unexpected_bytes"] += 1
        except StreamClosed:
            pass
        scope.cancel()
