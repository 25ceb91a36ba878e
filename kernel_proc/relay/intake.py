"""Read one peer's stream: split it into RPCs, validate each message and pass it on.

Everything runs in the task that reads the stream. There is no queue between the wire and the router: flow
control of the stream slows down a peer that sends faster than we can process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256

import trio

from ipc_schema.message import MessageDecodeError, decode_message
from kernel_proc.p2p.api import Stream, StreamClosed
from kernel_proc.relay.framing import FrameCutter, FramingError
from kernel_proc.relay.link import PeerLink
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc import RawMessage, Rpc
from kernel_proc.relay.rpc_reader import RpcDecodeError, decode_rpc
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.relay.state import Peer, Topic
from kernel_proc.relay.validation import Validators, Verdict

__all__ = ["Intake"]

log = logging.getLogger(__name__)

_READ_SIZE = 65_536
_LOOK_AT_CLOCK = 16
"""Messages between two reads of the clock."""

_ASIDE = 1024
"""Messages smaller than the limit by this margin need no exact size check: topics are short."""


class Intake:
    """The state shared by all readers. `deliver` receives each new valid message, `flush` sends pending
    output."""

    def __init__(
        self,
        router: Router,
        validators: Validators,
        links: Mapping[str, PeerLink],
        params: RelayParams,
        counters: dict[str, int],
        *,
        deliver: Callable[[RelayMessage], None],
        flush: Callable[[], None],
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._router = router
        self._validators = validators
        self._links = links
        self._params = params
        self._counters = counters
        self._deliver = deliver
        self._flush = flush
        self._spawn = spawn
        self._validating: dict[tuple[str, bytes], list[Peer]] = {}
        """The peers that sent us a message whose validation is still running."""
        self._settled = trio.lowlevel.ParkingLot()

    async def read(self, stream: Stream, peer: Peer) -> None:
        """Serve an inbound stream until it ends or a framing error forces a reset."""
        params, counters = self._params, self._counters
        cutter = FrameCutter(params.max_rpc_size + params.accept_slack)
        worked = 0.0
        while True:
            try:
                chunk = await stream.read(_READ_SIZE)
            except StreamClosed:
                return
            if not chunk:
                return
            started = time.perf_counter()
            counters["received_bytes"] += len(chunk)
            try:
                buffer, frames = cutter.feed(chunk)
            # An oversized or unparsable length prefix leaves no way to find the next frame.
            except FramingError as error:
                counters["frames_refused"] += 1
                log.info("reset relay stream of %s: %s", peer.peer_id, error)
                self._router.malformed(peer.peer_id, trio.current_time())
                self._flush()
                await stream.reset()
                return
            now = trio.current_time()
            received_ns = time.time_ns()
            for start, stop in frames:
                # Below the graylist threshold the whole RPC is dropped unread (gossipsub-v1.1, Score
                # Thresholds).
                if peer.graylisted:
                    counters["rpcs_graylisted"] += 1
                    continue
                try:
                    rpc = decode_rpc(buffer, start, stop)
                except RpcDecodeError:
                    counters["rpcs_malformed"] += 1
                    self._router.malformed(peer.peer_id, now)
                    continue
                counters["rpcs"] += 1
                if rpc.control is not None or rpc.subscriptions:
                    self._on_control(peer, rpc, now)
                for index, raw in enumerate(rpc.messages, 1):
                    later = self._on_message(peer, raw, now, received_ns)
                    if later is not None:
                        await self._validate_later(peer, *later)
                    if not index % _LOOK_AT_CLOCK and time.perf_counter() - started > params.max_hold:
                        self._flush()
                        await trio.lowlevel.checkpoint()
                        started, worked = time.perf_counter(), 0.0
                        now = trio.current_time()
                if time.perf_counter() - started > params.max_hold:
                    self._flush()
                    await trio.lowlevel.checkpoint()
                    started, worked = time.perf_counter(), 0.0
                    now = trio.current_time()
            self._flush()
            worked += time.perf_counter() - started
            if worked > params.max_hold:
                # Reading need not have reached a checkpoint while the stream had bytes buffered.
                await trio.lowlevel.checkpoint()
                worked = 0.0

    def _on_control(self, peer: Peer, rpc: Rpc, now: float) -> None:
        if rpc.subscriptions:
            self._router.on_subscriptions(peer, rpc.subscriptions, now)
        if rpc.control is not None:
            self._router.on_control(peer, rpc.control, now)

    def _on_message(
        self, peer: Peer, raw: RawMessage, now: float, received_ns: int
    ) -> tuple[Topic, RelayMessage, Awaitable[Verdict]] | None:
        """Process one copy of a message. Return the pending verdict if a validator is asynchronous."""
        counters, router = self._counters, self._router
        counters["received"] += 1
        topic = router.topic_of(raw.topic)
        if topic is None:
            counters["not_subscribed"] += 1
            return None
        data = raw.data
        topic.traffic.gross_in += len(data)
        if raw.signed:
            # StrictNoSign (11/WAKU2-RELAY). No penalty: nwaku accepts unsigned messages with `from` and
            # `seqno` and forwards them, so the sender may be an honest forwarder.
            counters["dropped_signed"] += 1
            return None
        # The id is over the encoded bytes (11/WAKU2-RELAY); two encodings of one WakuMessage are two
        # messages.
        message_id = sha256(data).digest()
        if not router.screen(topic, message_id):
            counters["duplicates"] += 1
            return None
        # Larger than the RPC limit of the network: valid for us, but no neighbour would accept the forward.
        if len(data) + _ASIDE > self._params.max_rpc_size and not self._fits(topic, data):
            counters["oversize_ignored"] += 1
            return None
        if self._validating:
            waiting = self._validating.get((topic.name, message_id))
            if waiting is not None:  # same bytes on the same topic: share the verdict
                counters["duplicates"] += 1
                waiting.append(peer)
                return None
        try:
            decoded = decode_message(data)
        except MessageDecodeError:
            counters["rejected_undecodable"] += 1
            router.reject(peer, topic, now)
            return None
        message = RelayMessage(topic.name, data, decoded, message_id, peer.peer_id, received_ns)
        try:
            verdict = self._validators.check(message)
        except Exception:
            # A bug in a validator is not the sender's fault: do not penalise or lose the peer for it.
            counters["validator_errors"] += 1
            log.exception("relay validator raised on %s", topic.name)
            return None
        if verdict is Verdict.ACCEPT:
            self._accept(peer, topic, message, now)
        elif isinstance(verdict, Verdict):
            self._refuse((peer,), topic, verdict, now)
        else:
            return topic, message, verdict
        return None

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
            self._counters["forwarded"] += len(targets)
        self._counters["delivered"] += 1
        self._deliver(message)

    def _refuse(self, peers: tuple[Peer, ...], topic: Topic, verdict: Verdict, now: float) -> None:
        if verdict is Verdict.IGNORE:
            self._counters["ignored"] += 1
            return
        self._counters["rejected"] += 1
        for peer in peers:
            self._router.reject(peer, topic, now)

    # -- asynchronous validators ------------------------------------------------------------------------

    async def _validate_later(
        self, peer: Peer, topic: Topic, message: RelayMessage, verdict: Awaitable[Verdict]
    ) -> None:
        """Await the verdict in a separate task. The reader blocks here while too many validations are
        running."""
        key = (topic.name, message.message_id)
        senders = self._validating[key] = [peer]

        async def finish() -> None:
            try:
                result = await verdict
            except Exception:
                self._counters["validator_errors"] += 1
                log.exception("relay validator raised on %s", topic.name)
                result = Verdict.IGNORE
            finally:
                del self._validating[key]
                self._settled.unpark_all()
            now = trio.current_time()
            if result is not Verdict.ACCEPT:
                self._refuse(tuple(senders), topic, result, now)
            elif topic.subscribed and message.message_id not in topic.seen:
                self._accept(peer, topic, message, now)
            self._flush()

        self._spawn(finish)
        while len(self._validating) >= self._params.queues.validations:
            self._flush()
            await self._settled.park()
