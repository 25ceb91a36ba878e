"""Read one peer's stream: split it into RPCs, validate each message and pass it on.

Messages are processed where the connection is read, without waking a task. There is no queue between the wire
and the router: flow control of the stream slows down a peer that sends faster than we can process.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from ipc_schema.message import MessageDecodeError, decode_message
from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.relay.framing import FrameCutter, FramingError
from kernel_proc.relay.link import PeerLink
from kernel_proc.relay.messages import RelayMessage, message_id_of
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc import RawMessage
from kernel_proc.relay.rpc_reader import RpcDecodeError, decode_rpc
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.relay.state import Peer, Topic
from kernel_proc.relay.validation import Validator, Verdict, judge

_new_tuple: Final = tuple.__new__
log = logging.getLogger(__name__)

_LOOK_AT_CLOCK: Final = 16
"""Messages between two reads of the clock."""

_ASIDE: Final = 1024
"""Messages smaller than the limit by this margin need no exact size check: topics are short."""


class _Work:
    """One stream's bytes: they are cut into RPCs and worked off as they come, where the connection is read.
    What takes too long is left to the stream's own task."""

    __slots__ = ("_clock", "_cutter", "_frames", "_intake", "_max_hold", "_messages", "_peer", "error")

    def __init__(self, intake: Intake, peer: Peer, params: RelayParams) -> None:
        self.error: FramingError | None = None
        """Why no further frame can be found."""
        self._intake = intake
        self._peer = peer
        self._clock = trio.lowlevel.current_clock().current_time
        self._max_hold = params.max_hold
        self._cutter = FrameCutter(params.max_rpc_size + params.accept_slack)
        self._frames: deque[tuple[bytes, int, int]] = deque()
        self._messages: deque[RawMessage] = deque()

    def is_left(self) -> bool:
        """Whether there is work for the stream's task."""
        return bool(self._messages or self._frames)

    def take(self, buffer: bytes, start: int, stop: int) -> bool:
        """Work off what `buffer[start:stop]` completes. Return False if the stream's task has to go on."""
        self._intake.counters["received_bytes"] += stop - start
        try:
            frames = self._cutter.feed(buffer, start, stop)
        # An oversized or unparsable length prefix leaves no way to find the next frame.
        except FramingError as error:
            self.error = error
            return False
        if not frames:
            return True
        self._frames.extend(frames)
        return self.go_on()

    def go_on(self) -> bool:
        """Work until nothing is left (True), or for as long as a reader may."""
        intake, peer, frames, messages = self._intake, self._peer, self._frames, self._messages
        started, now, received_ns = time.perf_counter(), self._clock(), time.time_ns()
        count = 0  # whatever the clock says, something is done
        while True:
            while messages:
                intake.on_message(peer, messages.popleft(), now, received_ns)
                count += 1
                if count % _LOOK_AT_CLOCK == 0 and time.perf_counter() - started > self._max_hold:
                    return False
            if not frames:
                break
            if count and time.perf_counter() - started > self._max_hold:
                return False
            buffer, start, stop = frames.popleft()
            messages.extend(intake.decode(peer, buffer, start, stop, now))
            count += 1
        intake.flush()
        return True


class Intake:
    """The state shared by all readers. `deliver` receives each new valid message, `flush` sends pending
    output."""

    def __init__(
        self,
        router: Router,
        validators: Sequence[Validator],
        links: Mapping[str, PeerLink],
        params: RelayParams,
        counters: dict[str, int],
        *,
        deliver: Callable[[RelayMessage], None],
        flush: Callable[[], None],
    ) -> None:
        self._router = router
        self._validators = validators
        self._links = links
        self._params = params
        self.counters = counters
        self._deliver = deliver
        self.flush = flush

    async def read(self, stream: Stream, peer: Peer) -> None:
        """Serve an inbound stream until it ends or a framing error forces a reset."""
        work = _Work(self, peer, self._params)
        try:
            while await stream.consume(work.take):
                if work.error is not None:
                    break
                while work.is_left():
                    self.flush()
                    await trio.lowlevel.checkpoint()
                    work.go_on()
        except StreamClosed:
            return
        if work.error is not None:
            self.counters["frames_refused"] += 1
            log.info("reset relay stream of %s: %s", peer.peer_id, work.error)
            self._router.malformed(peer.peer_id, trio.current_time())
            self.flush()
            await stream.reset()

    def decode(self, peer: Peer, buffer: bytes, start: int, stop: int, now: float) -> Sequence[RawMessage]:
        """Decode an RPC, handle its control and subscriptions, and return its messages."""
        # Below the graylist threshold the whole RPC is dropped unread (gossipsub-v1.1, Score Thresholds).
        if peer.graylisted:
            self.counters["rpcs_graylisted"] += 1
            return []
        try:
            subscriptions, messages, control = decode_rpc(buffer, start, stop)
        except RpcDecodeError:
            self.counters["rpcs_malformed"] += 1
            self._router.malformed(peer.peer_id, now)
            return []
        self.counters["rpcs"] += 1
        if subscriptions:
            self._router.on_subscriptions(peer, subscriptions, now)
        if control is not None:
            self._router.on_control(peer, control, now)
        return messages

    def on_message(self, peer: Peer, raw: RawMessage, now: float, received_ns: int) -> None:
        """Process one copy of a message."""
        counters, router = self.counters, self._router
        counters["received"] += 1
        raw_topic, data, signed = raw
        topic = router.topic_of(raw_topic)
        if topic is None:
            counters["not_subscribed"] += 1
            return
        topic.traffic.gross_in += len(data)
        if signed:
            # StrictNoSign (11/WAKU2-RELAY). No penalty: nwaku accepts unsigned messages with `from` and
            # `seqno` and forwards them, so the sender may be an honest forwarder.
            counters["dropped_signed"] += 1
            return
        # The id is over the encoded bytes (11/WAKU2-RELAY); two encodings of one WakuMessage are two
        # messages.
        message_id = message_id_of(data)
        if not router.screen(topic, message_id):
            counters["duplicates"] += 1
            return
        # Larger than the RPC limit of the network: valid for us, but no neighbour would accept the forward.
        if len(data) + _ASIDE > self._params.max_rpc_size and not self._fits(topic, data):
            counters["oversize_ignored"] += 1
            return
        try:
            decoded = decode_message(data)
        except MessageDecodeError:
            counters["rejected_undecodable"] += 1
            router.reject(peer, topic, now)
            return
        message = _new_tuple(RelayMessage, (topic.name, data, decoded, message_id, peer.peer_id, received_ns))
        try:
            verdict = judge(self._validators, message)
        except Exception:
            # A bug in a validator is not the sender's fault: do not penalise or lose the peer for it.
            counters["validator_errors"] += 1
            log.exception("relay validator raised on %s", topic.name)
            return
        if verdict is Verdict.ACCEPT:
            self._accept(peer, topic, message, now)
        elif verdict is Verdict.IGNORE:
            counters["ignored"] += 1
        else:
            counters["rejected"] += 1
            router.reject(peer, topic, now)

    def _fits(self, topic: Topic, data: bytes) -> bool:
        return fits_rpc(topic.raw, len(data), self._params.max_rpc_size)

    def _accept(self, peer: Peer, topic: Topic, message: RelayMessage, now: float) -> None:
        cached, targets = self._router.accept(peer, topic, message.message_id, message.data, now)
        if targets:
            frame = cached.frame
            for target in targets:
                link = self._links.get(target)
                if link is not None:
                    link.forward(frame, message.message_id)
            self.counters["forwarded"] += len(targets)
        self.counters["delivered"] += 1
        self._deliver(message)
