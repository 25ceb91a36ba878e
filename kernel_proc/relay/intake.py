"""Reading one peer: frames from its stream, RPCs from frames, messages through validation and onwards.

Everything happens in the task that reads the stream. There is no queue between the wire and the router: a
peer that sends faster than we work is held back by its stream's window.
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
"""Messages between two looks at the clock."""

_ASIDE = 1024
"""A message this far below the limit needs no exact size: topics are short."""


class Intake:
    """What all readers share: `deliver` gets each new valid message, `flush` sends what waits."""

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
        """Whom a message came from while its verdict is being made."""
        self._settled = trio.lowlevel.ParkingLot()

    async def read(self, stream: Stream, peer: Peer) -> None:
        """Serve one inbound stream until it has ended or cannot be followed any further."""
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
            begun = time.perf_counter()
            counters["received_bytes"] += len(chunk)
            try:
                buffer, frames = cutter.feed(chunk)
            except FramingError as error:
                counters["frames_refused"] += 1
                log.info("relay stream of %s ended: %s", peer.peer_id, error)
                self._router.malformed(peer.peer_id, trio.current_time())
                self._flush()
                await stream.reset()
                return
            now = trio.current_time()
            received_ns = time.time_ns()
            for start, stop in frames:
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
                    if not index % _LOOK_AT_CLOCK and time.perf_counter() - begun > params.max_hold:
                        self._flush()
                        await trio.lowlevel.checkpoint()
                        begun, worked = time.perf_counter(), 0.0
                        now = trio.current_time()
                if time.perf_counter() - begun > params.max_hold:
                    self._flush()
                    await trio.lowlevel.checkpoint()
                    begun, worked = time.perf_counter(), 0.0
                    now = trio.current_time()
            self._flush()
            worked += time.perf_counter() - begun
            if worked > params.max_hold:
                # The stream need not have let anybody run while it had bytes for us.
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
        """Take one copy of a message. Returns what is left to wait for if a validator is asynchronous."""
        counters, router = self._counters, self._router
        counters["received"] += 1
        topic = router.topic_of(raw.topic)
        if topic is None:
            counters["not_subscribed"] += 1
            return None
        data = raw.data
        if raw.signed:
            # Without blame: nwaku lets some of these pass, so the sender may be an honest forwarder.
            counters["dropped_signed"] += 1
            return None
        message_id = sha256(data).digest()
        if not router.screen(topic, message_id):
            counters["duplicates"] += 1
            return None
        if len(data) + _ASIDE > self._params.max_rpc_size and not self._fits(topic, data):
            counters["oversize_ignored"] += 1
            return None
        if self._validating:
            waiting = self._validating.get((topic.name, message_id))
            if waiting is not None:  # the same bytes on the same topic: they share the verdict
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
            # A defect of a validator is not the sender's fault, and must not cost us the peer.
            counters["validator_errors"] += 1
            log.exception("a relay validator failed on %s", topic.name)
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
        """Have a verdict made in a task of its own; the reader waits here while too many are under way."""
        key = (topic.name, message.message_id)
        senders = self._validating[key] = [peer]

        async def finish() -> None:
            try:
                result = await verdict
            except Exception:
                self._counters["validator_errors"] += 1
                log.exception("a relay validator failed on %s", topic.name)
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
