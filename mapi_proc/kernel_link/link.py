"""The connection to the kernel: hello, leases, live events, gap detection, replay and liveness.

A shell around one `StreamTracker` per wanted shard. It can start before or after the kernel, recovers by
itself when the kernel restarts or hangs, and reports to its listener what arrives and what may be missing;
how to react is the listener's policy.

One task (`run`) makes the requests. Live frames are handled in the socket's own callback, without a task or
Future per message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.hello import HelloRequest
from ipc_schema.kernel.events import MessageEvent, decode_header, stream_topic
from ipc_schema.kernel.methods import (
    KernelHello,
    LeaseAcquireReply,
    LeaseAcquireRequest,
    LeaseReleaseRequest,
    StreamReplayReply,
    StreamReplayRequest,
    replayed_events,
    trimmed_first,
)
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.steady import SteadyClock
from ipc_schema.streams import StreamState
from logos_client.transport import ConnectionSettings, RequestConnection
from mapi_proc.kernel_link.events import EventSink, EventSocket
from mapi_proc.kernel_link.tracker import NO_MESH_PEERS, Missed, StreamPlace, StreamTracker

log = logging.getLogger(__name__)

_RENEW_S: Final = 10.0
_RETRY_S: Final = 0.5
_RETRY_MAX_S: Final = 5.0
_TICK_S: Final = 1.0
_SILENCE_S: Final = 3.0
_PING_S: Final = 1.0


class LinkListener(EventSink, Protocol):
    """Receives the link's reports. All calls come on the loop and must not block."""

    def kernel_up(self, hello: KernelHello) -> None:
        """The kernel accepted our hello. Raise IpcError to refuse it (a contradicting network)."""

    def kernel_down(self, reason: str) -> None:
        """The kernel does not answer."""

    def missed(self, shard: int, missed: Missed) -> None:
        """Messages from this time span may be missing."""

    def position(self, shard: int, position: StreamPlace) -> None:
        """The position moved without a message (a new stream, a renewed lease): store it."""


class KernelLink:
    """One MAPI's link to one kernel.

    Create it on a running loop, `set_listener`, `await run()` until cancelled, then `close()`.
    """

    def __init__(
        self,
        requests: str,
        control: str,
        name: str,
        *,
        steady: SteadyClock,
        deaf: str = NO_MESH_PEERS,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        """Connect to the kernel's sockets.

        `name` identifies this consumer and stays the same across restarts. `deaf` is the reason given for
        messages missed while the kernel has no coverage.
        """
        self._name = name
        self._steady = steady
        self._deaf = deaf
        self._loop = asyncio.get_running_loop()
        context = context or zmq.Context.instance()
        self.counters = {"gaps": 0, "replayed": 0, "resyncs": 0, "bad_headers": 0, "dropped_live": 0}
        self._trackers: dict[int, StreamTracker] = {}
        self._events = EventSocket(context, self._sync_soon, self.counters, steady)
        self.hello: KernelHello | None = None
        """The kernel's last hello reply."""
        self.up = False
        """True while the kernel has answered our hello and has not gone silent since."""
        self._work = asyncio.Event()
        self._resync = False
        self._renew_at = self._loop.time()
        self._release: set[int] = set()
        self._leased = asyncio.Condition()
        self._health_due = False
        self._control = RequestConnection(control, context=context)
        settings = ConnectionSettings(
            hello=lambda: HelloRequest(kind="mapi", name=name).to_body(),
            on_hello=self._on_hello,
            on_down=self._on_down,
            keepalive="node.health",
        )
        self._connection = RequestConnection(requests, settings, context=context)

    def set_listener(self, listener: LinkListener) -> None:
        """Set the listener. Call it before the loop's next turn: the kernel may answer then."""
        self._listener = listener
        self._events.sink = listener

    # -- state -------------------------------------------------------------------------------------------

    @property
    def resyncing(self) -> bool:
        """True while a wanted shard is not live: its lease or a replay is outstanding."""
        return any(not tracker.live_now for tracker in self._trackers.values())

    def tracker(self, shard: int) -> StreamTracker | None:
        return self._trackers.get(shard)

    async def request(
        self,
        method: str,
        body: Mapping[str, object] | None = None,
        blobs: Sequence[bytes] = (),
        *,
        timeout: float = 10.0,
        weight: int = 1,
    ) -> Reply:
        """Make a request to the kernel, which counts as `weight` requests in flight. Raises IpcError."""
        return await self._connection.request(method, body, blobs, timeout=timeout, weight=weight)

    async def wait_up(self, timeout: float) -> bool:
        """Wait until the kernel has answered; False if it has not within `timeout` seconds.

        Raises IpcError if the link was refused (another version, a contradicting network).
        """
        try:
            await self._connection.wait_ready(timeout)
        except IpcError as error:
            if error.retriable:
                return False
            raise
        return True

    # -- what is wanted ----------------------------------------------------------------------------------

    def want(self, shards: Iterable[int], positions: Mapping[int, StreamPlace]) -> None:
        """Follow these shards from now on, starting at their position on disk where there is one."""
        for shard in shards:
            if shard not in self._trackers:
                self._release.discard(shard)
                self._trackers[shard] = StreamTracker(positions.get(shard), self._steady(), self._deaf)
                self._resync = True
        self._work.set()

    def unwant(self, shards: Iterable[int]) -> None:
        """Stop following these shards."""
        for shard in shards:
            if self._trackers.pop(shard, None) is not None:
                self._release.add(shard)
                if self.hello is not None:
                    self._events.leave(stream_topic(self.hello.network.cluster, shard))
        self._work.set()

    def leased(self, shard: int) -> bool:
        """Return whether the kernel records this shard for us, or we do not follow it."""
        tracker = self._trackers.get(shard)
        return tracker is None or tracker.recorded

    async def wait_leased(self, shards: Iterable[int], timeout: float) -> bool:
        """Wait until the kernel records these shards for us; False if it does not within `timeout`
        seconds."""
        wanted = set(shards)

        def leased() -> bool:
            return all(map(self.leased, wanted))

        if leased():  # nearly always
            return True
        try:
            async with asyncio.timeout(timeout), self._leased:
                await self._leased.wait_for(leased)
        except TimeoutError:
            return False
        return True

    def pause(self) -> None:
        """Stop reading events while the disk is behind: the kernel's ring keeps them."""
        self._events.pause()

    def resume(self) -> None:
        """Continue reading after `pause`."""
        self._events.resume()
        self._sync_soon()  # a replay may have stopped for the pause

    def _sync_soon(self) -> None:
        self._resync = True
        self._work.set()

    # -- the connection's calls --------------------------------------------------------------------------

    def _on_hello(self, reply: Reply) -> None:
        hello = KernelHello.from_body(reply.body)
        self._listener.kernel_up(hello)
        if self.hello is not None and self.hello.network.cluster != hello.network.cluster:
            self._events.close()
        self.hello = hello
        self._events.heard = self._loop.time()
        self.up = True
        self._events.open(hello.events)
        self._health_due = True
        self._sync_soon()

    def _on_down(self, reason: str) -> None:
        self._lost(f"kernel: {reason}")

    def _lost(self, reason: str) -> None:
        for tracker in self._trackers.values():
            tracker.lost_kernel()
        if self.up:
            self.up = False
            self._listener.kernel_down(reason)

    # -- the task of the link ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep leases, replay what was missed, watch the kernel's liveness. Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_leases(), name="kernel-link-leases")
            group.create_task(self._watch(), name="kernel-link-watch")

    async def close(self) -> None:
        """Close the connections. Leases are left to lapse, so that a restart finds its events in the ring."""
        self._events.close()
        await self._connection.close()
        await self._control.close()

    async def _keep_leases(self) -> None:
        delay = _RETRY_S
        while True:
            if not self._resync and not self._release and not self._health_due:
                try:
                    async with asyncio.timeout_at(self._renew_at):
                        await self._work.wait()
                except TimeoutError:
                    self._resync = True
            self._work.clear()
            try:
                await self._connection.wait_ready()
                if self._health_due:
                    self._health_due = False
                    reply = await self._connection.request("node.health")
                    self._listener.kernel_health(NodeHealth.from_body(reply.body))
                if self._release:
                    released, self._release = sorted(self._release), set()
                    await self._connection.request(
                        "lease.release", LeaseReleaseRequest(shards=tuple(released)).to_body()
                    )
                if self._resync:
                    self._resync = False
                    await self._sync()
            except IpcError as error:
                self._resync = self._health_due = True
                if not error.retriable and not self.up:
                    self._listener.kernel_down(f"kernel refused: {error.message}")
                level = logging.INFO if error.retriable else logging.WARNING
                log.log(level, "kernel link: %s; again in %.1f s", error, delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)
            else:
                delay = _RETRY_S

    async def _sync(self) -> None:
        """Acquire or renew all leases, then replay what each stream has missed."""
        self.counters["resyncs"] += 1
        trackers = dict(self._trackers)
        hello = self.hello
        self._renew_at = self._loop.time() + _RENEW_S
        if not trackers or hello is None:
            return
        self._renew_at = self._loop.time() + hello.limits.lease_renew_ms / 1000
        for shard, tracker in trackers.items():
            self._events.follow(stream_topic(hello.network.cluster, shard), shard, tracker)
        request = LeaseAcquireRequest(shards=tuple(sorted(trackers)))
        reply = await self._connection.request("lease.acquire", request.to_body())
        leases = LeaseAcquireReply.from_body(reply.body).leases
        of_label = self._steady.of_label
        behind: list[tuple[StreamState, StreamTracker]] = []
        for state in leases:
            followed = trackers.get(state.shard)
            if followed is None or self._trackers.get(state.shard) is not followed:
                continue  # no longer wanted
            coverage = [
                (of_label(begin), None if end is None else of_label(end)) for begin, end in state.coverage
            ]
            # Every activation of a stream has a new epoch, so a lapsed lease always shows (SPEC.md, 2).
            followed.leased(reply.instance, state.epoch, state.first, state.last, coverage, self._steady())
            self._report(state.shard, followed)
            self._deliver(state.shard, followed, followed.take_held())
            if followed.behind:
                behind.append((state, followed))
        async with self._leased:
            self._leased.notify_all()
        for state, followed in behind:
            await self._replay(state.shard, state.stream, followed)

    def _report(self, shard: int, tracker: StreamTracker) -> None:
        missed, tracker.missed = tracker.missed, []
        for one in missed:
            self._listener.missed(shard, one)
        self._listener.position(shard, tracker.position)

    async def _replay(self, shard: int, stream: str, tracker: StreamTracker) -> None:
        while tracker.behind and self._trackers.get(shard) is tracker:
            if not self._events.reading:
                return  # `resume` continues from here: renewing the leases must not wait for a disk
            if self._loop.time() >= self._renew_at:
                self._resync = True  # nor for a long replay, which continues after the renewal
                return
            request = StreamReplayRequest(stream=stream, epoch=tracker.epoch, after=tracker.seq)
            try:
                reply = await self._connection.request("stream.replay", request.to_body())
            except IpcError as error:
                first = trimmed_first(error, tracker.seq)
                if first is not None:
                    tracker.trimmed(first, self._steady())
                    self._report(shard, tracker)
                    continue
                if error.code is ErrorCode.EPOCH_CHANGED:
                    self._resync = True
                    return
                raise
            page = StreamReplayReply.from_body(reply.body)
            events = replayed_events(page, reply.blobs)
            decoded = [(decode_header(header), payload) for header, payload in events]
            self.counters["replayed"] += self._deliver(shard, tracker, decoded)
            tracker.page_done(page.last, page.complete)
            self._deliver(shard, tracker, tracker.take_held())
            if not events and not page.complete:
                # Asking again would loop for ever.
                raise IpcError(ErrorCode.INTERNAL, f"an empty replay page of {stream} that is not complete")
            await asyncio.sleep(0)

    def _deliver(self, shard: int, tracker: StreamTracker, events: Iterable[tuple[Any, bytes]]) -> int:
        """Pass on events that were replayed or held. Return how many were not there before."""
        delivered = 0
        for event, payload in events:
            # An event recorded before the wall clock was set back has a label in the future: clamp it.
            if tracker.replayed(event.seq, min(self._steady.of_label(event.time_ns), self._steady())):
                delivered += 1
                if type(event) is MessageEvent:
                    self._listener.message(shard, event, payload)
        return delivered

    async def _watch(self) -> None:
        """Declare the kernel down after three missed heartbeats and an unanswered ping on the control
        socket.

        A hung kernel keeps its sockets open: ZMTP heartbeats are answered by libzmq's I/O thread and do not
        show it.
        """
        while True:
            await asyncio.sleep(_TICK_S)
            if not self._connection.ready or self.hello is None:
                continue
            silence = self._loop.time() - self._events.heard
            if self.up and silence < _SILENCE_S:
                continue
            try:
                await self._control.request("health", timeout=_PING_S)
            except IpcError as error:
                self._lost(f"kernel does not answer: {error.message}")
                continue
            if not self.up:
                # It hung and recovered as the same instance, so there will be no new hello.
                self._listener.kernel_up(self.hello)
                self.up = True
                self._health_due = True
            self._events.heard = self._loop.time()
            if self._events.reading:  # else the silence is our own
                for tracker in self._trackers.values():
                    tracker.suspect()
            self._sync_soon()
