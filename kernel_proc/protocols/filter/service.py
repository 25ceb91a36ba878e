"""Filter service (12/WAKU2-FILTER): accept subscriptions and push messages.

`on_message` is a sink of the node's messages: it encodes a push once, queues it for each subscriber and
returns. Each subscriber has a bounded queue and its own writer (`push_link`), so that a slow or hung one
delays neither the others nor the node; what does not fit into its queue is dropped and counted.

A subscriber is removed when it has been idle for the timeout, when it is connected but does not advertise
filter-push (as in nwaku's maintenance sweep), or when it has been unreachable for a minute.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

import trio

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.kernel.events import SOURCE_FILTER
from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.protobuf import ProtobufError
from kernel_proc.metrics import Registry, Sample
from kernel_proc.p2p.api import EndCause, Host, PeerConnection, PeerIdentity, PeerIdText
from kernel_proc.protocols.filter.codec import (
    PUSH_PROTOCOL,
    SUBSCRIBE_PROTOCOL,
    FilterResponse,
    RequestType,
    Status,
    decode_request,
    encode_push,
    encode_response,
)
from kernel_proc.protocols.filter.push_link import PushLink, PushParams
from kernel_proc.protocols.filter.push_queue import PushBudget, PushFrame, PushQueue
from kernel_proc.protocols.filter.subscriptions import FilterLimits, Subscriptions
from kernel_proc.protocols.framing import encode_frame
from kernel_proc.protocols.ratelimit import PeerLimiter
from kernel_proc.protocols.reply_head import NO_ID
from kernel_proc.protocols.requests import RequestService, ServiceLimits
from kernel_proc.relay.seen import SeenCache
from logos_process.logs import fields

log = logging.getLogger(__name__)

MAX_REQUEST: Final = 256 * 1024
"""100 content topics of 2.6 kB each; nwaku reads up to 1.5 MB."""
REJECTED: Final = encode_response(
    FilterResponse(
        NO_ID, Status.TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS: request rejected due to rate limit exceeded"
    )
)
PUSHED_SECONDS: Final = 120.0
"""Seconds during which a message hash is pushed only once (nwaku: 2 min)."""
PUSHED_KEPT: Final = 50_000
DURATION_BOUNDS: Final = (0.00005, 0.0002, 0.001, 0.005, 0.02, 0.1, 0.5)

_KINDS: Final = {
    RequestType.PING: "SUBSCRIBER_PING",
    RequestType.SUBSCRIBE: "SUBSCRIBE",
    RequestType.UNSUBSCRIBE: "UNSUBSCRIBE",
    RequestType.UNSUBSCRIBE_ALL: "UNSUBSCRIBE_ALL",
}


class FilterService:
    """Mount `requests`, pass every message to `on_message`, and run `run`."""

    def __init__(
        self,
        host: Host,
        registry: Registry,
        *,
        limits: FilterLimits | None = None,
        params: PushParams | None = None,
        rate_limit: RateLimit | None = None,
    ) -> None:
        self._host = host
        self._params = params or PushParams()
        self.table = Subscriptions(limits or FilterLimits())
        self.requests = RequestService(
            host,
            SUBSCRIBE_PROTOCOL,
            self._handle,
            service="filter",
            rejected=REJECTED,
            limits=ServiceLimits(MAX_REQUEST),
            limiter=PeerLimiter(rate_limit),
        )
        self._budget = PushBudget(self._params.budget)
        self._links: dict[PeerIdText, PushLink] = {}
        self._gone: dict[PeerIdText, float] = {}
        """Disconnected subscribers, and since when."""
        self._pushed = SeenCache(PUSHED_SECONDS, PUSHED_KEPT, 0.0)
        self._nursery: trio.Nursery | None = None
        self._ready: deque[PushLink] = deque()
        self._wake = trio.Event()
        self.counters: Counter[str] = Counter()
        """Monotonic: messages with subscribers and repeats of them; frames sent, failed, dropped; push
        streams opened and unexpected reads on them; undecodable requests; subscribers removed as idle,
        unsupported, unreachable, or because of an internal fault."""
        self._requests = {
            kind: registry.counter("filter_requests", type=name) for kind, name in _KINDS.items()
        }
        self._answering = {
            kind: registry.histogram("filter_request_duration_seconds", DURATION_BOUNDS, type=name)
            for kind, name in _KINDS.items()
        }
        self._duration = registry.histogram("filter_handle_message_duration_seconds", DURATION_BOUNDS)
        host.add_listener(self)
        registry.add_source(self._samples)

    # --- life ---

    async def run(self) -> None:
        """Write pushes and sweep subscribers, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                nursery.start_soon(self._wake_writers, name="filter writers")
                while True:
                    await trio.sleep(self._params.sweep)
                    self.sweep()
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    async def _wake_writers(self) -> None:
        """Wake the writers that have work, a few per turn of the event loop."""
        ready = self._ready
        while True:
            while ready:
                for _ in range(min(len(ready), self._params.wake_at_once)):
                    ready.popleft().wake()
                await trio.lowlevel.checkpoint()
            self._wake = trio.Event()
            await self._wake.wait()

    # --- messages ---

    def on_message(self, topic: str, message: WakuMessage, digest: bytes, source: int) -> None:
        """Push a message to its subscribers. Never wait.

        Messages that we received through filter are not pushed on: the relay's validators have not seen them.
        """
        subscribers = self.table.subscribers(topic, message.content_topic)
        if not subscribers or source == SOURCE_FILTER or self._nursery is None:
            return
        now = trio.current_time()
        self._pushed.expire(now)
        if digest in self._pushed:
            self.counters["repeats"] += 1
            return
        self._pushed.add(digest, now)
        self.counters["messages"] += 1
        frame = PushFrame(encode_frame(encode_push(encode_message(message), topic)))
        ready = self._ready
        for peer_id in subscribers:
            link = self._links.get(peer_id) or self._link(peer_id)
            if link.offer(frame) and not link.ready:
                link.ready = True
                ready.append(link)
        self._wake.set()
        self._duration.observe(trio.current_time() - now)

    def _link(self, peer_id: PeerIdText) -> PushLink:
        assert self._nursery is not None
        params = self._params
        queue = PushQueue(self._budget, max_count=params.queue_count, max_bytes=params.queue_bytes)
        link = self._links[peer_id] = PushLink(self._host, peer_id, queue, params, self.counters)
        self._nursery.start_soon(self._run_link, link, name=f"filter push {peer_id}")
        return link

    async def _run_link(self, link: PushLink) -> None:
        """Run a subscriber's writer. An error removes that subscriber and nothing else."""
        try:
            await link.run()
        except Exception:
            log.exception("filter push to %s failed", link.peer_id)
            if self._links.get(link.peer_id) is link:
                self._remove(link.peer_id, "fault")

    # --- subscribers ---

    async def _handle(self, peer_id: PeerIdText, body: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        try:
            request = decode_request(body)
        except ProtobufError as error:
            self.counters["undecodable"] += 1
            log.debug("undecodable filter request from %s: %s", peer_id, error)
            return None  # nwaku does not answer it either
        started = trio.current_time()
        response = self.table.handle(peer_id, request, started)
        if request.kind in _KINDS:
            kind = RequestType(request.kind)
            self._requests[kind].add()
            self._answering[kind].observe(trio.current_time() - started)
        link = self._links.get(peer_id)
        if peer_id not in self.table:
            self._forget(peer_id)
        elif link is not None:
            link.mark_alive()
        return encode_response(response)

    def sweep(self) -> None:
        """Remove subscribers that are idle, unreachable, or cannot receive pushes."""
        now = trio.current_time()
        # nwaku: 300 s idle timeout, swept every 60 s; PING, SUBSCRIBE and UNSUBSCRIBE refresh it.
        for peer_id in self.table.idle(now):
            self._remove(peer_id, "idle")
        for peer_id in self.table.peers():
            if self._is_unreachable(peer_id, now):
                self._remove(peer_id, "unreachable")
            elif self._cannot_take_pushes(peer_id, now):
                self._remove(peer_id, "unsupported")

    def _is_unreachable(self, peer_id: PeerIdText, now: float) -> bool:
        link = self._links.get(peer_id)
        failing = link.failing_since if link is not None else None
        since = [at for at in (self._gone.get(peer_id), failing) if at is not None]
        return bool(since) and now - min(since) >= self._params.unreachable

    def _cannot_take_pushes(self, peer_id: PeerIdText, now: float) -> bool:
        if not self._host.is_connected(peer_id):
            return False
        identity = self._host.identity(peer_id)
        if identity is not None:
            return PUSH_PROTOCOL not in identity.protocols
        since = self.table.since(peer_id)
        return since is not None and now - since >= self._params.unreachable

    def _remove(self, peer_id: PeerIdText, why: str) -> None:
        self.counters[why] += 1
        log.info("filter subscriber forgotten", extra=fields(peer=peer_id, reason=why))
        self.table.remove(peer_id)
        self._forget(peer_id)

    def _forget(self, peer_id: PeerIdText) -> None:
        self._gone.pop(peer_id, None)
        link = self._links.pop(peer_id, None)
        if link is not None:
            link.close()

    # --- host events ---

    def peer_connected(self, connection: PeerConnection) -> None:
        """Clear the disconnect time: the subscriber is back."""
        self._gone.pop(connection.peer_id, None)

    def peer_identified(self, identity: PeerIdentity) -> None:
        """Retry the pending pushes of a returning subscriber."""
        link = self._links.get(identity.peer_id)
        if link is not None:
            link.reconnected()

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        """Start the grace period in which the subscriber may return."""
        if peer_id in self.table:
            self._gone[peer_id] = trio.current_time()

    # --- inspection ---

    def _samples(self) -> Iterable[Sample]:
        counters = self.counters
        yield "filter_subscriptions", {}, len(self.table)
        yield "filter_criteria", {}, self.table.criteria
        yield "filter_queued_frames", {}, sum(link.queued for link in self._links.values())
        yield "filter_queued_bytes", {}, self._budget.used
        for outcome in ("sent", "failed", "dropped"):
            yield "filter_pushes", {"outcome": outcome}, counters[outcome]
        for why in ("idle", "unsupported", "unreachable", "fault"):
            yield "filter_subscribers_removed", {"reason": why}, counters[why]
        for what in ("messages", "repeats", "streams"):
            yield f"filter_push_{what}", {}, counters[what]
        yield "filter_errors", {"type": "decode_rpc_failure"}, counters["undecodable"]
        yield "filter_errors", {"type": "unexpected_bytes"}, counters["unexpected"]
