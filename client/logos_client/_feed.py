"""The kernel's event streams as one async iterator: gap detection, replay, bounded memory."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel import events as wire
from ipc_schema.kernel import methods
from ipc_schema.kernel.events import Heartbeat, MessageEvent, UnknownEvent, decode_header, other_version
from ipc_schema.kernel.records import NodeHealth
from ipc_schema.streams import StreamState
from logos_client._cursor import CursorVerdict, StreamCursor
from logos_client._process import HomeProcess
from logos_client.exceptions import ClosedError, DeadlineError, public_errors
from logos_client.kernel_events import (
    HealthEvent,
    KernelEvent,
    KernelFound,
    KernelLost,
    KernelMessage,
    PeerEvent,
    PeersSnapshot,
)
from logos_sockets import open_subscriber
from logos_sockets.drain import DrainSocket

if TYPE_CHECKING:  # which makes the feeds
    from logos_client.kernel import KernelClient

log = logging.getLogger(__name__)

_HEALTH: Final = "p"
_PEERS: Final = "n"
_RETRY: Final = 0.2
_RETRY_MAX: Final = 5.0
#: Approximate memory per event besides its payload, so that many small events count too.
_OVERHEAD: Final = 512
_SUBSCRIBE_TIMEOUT: Final = 5.0
#: Heartbeats that may be missing before the kernel is asked whether it is there.
_MISSED: Final = 3
_HWM: Final = 2_000
#: How many of the header's fields stand before the payload in a `KernelMessage`.
_BEFORE_PAYLOAD: Final = 5


@dataclass(slots=True)
class FeedCounters:
    """Counters of events. `skipped`: live ones left to a replay; `replays`: replay requests."""

    received: int = 0
    skipped: int = 0
    replays: int = 0
    garbage: int = 0


class KernelFeed:
    """Events of some of the kernel's streams, each stream in order. Created by `KernelClient.events`.

        async with client.events(shards=[0]) as feed:
            async for event in feed:
                if isinstance(event, KernelMessage): ...

    A gap in a message stream is filled by replay, or reported as a `StreamLoss`. Above `max_bytes` a slow
    reader's live events are left in the kernel's ring and replayed once there is room: memory stays bounded
    here.
    """

    def __init__(
        self,
        host: KernelClient,
        *,
        streams: Mapping[bytes, str],
        shards: Sequence[int],
        lease: bool,
        after: Mapping[str, tuple[bytes, int]],
        max_bytes: int,
        context: zmq.Context[zmq.Socket[bytes]] | None,
    ) -> None:
        """Internal: use `KernelClient.events`. `streams`: F0 → name; `after`: name → (epoch, seq)."""
        self.counters: FeedCounters = FeedCounters()
        self._home = HomeProcess()
        self._host = host
        self._shards = tuple(shards)
        self._lease = lease
        self._after = after
        self._max_bytes = max_bytes
        self._context = context or zmq.Context.instance()
        held_bytes = max_bytes // (2 * max(1, len(streams)))
        self._cursors = {topic: StreamCursor(name, held_bytes) for topic, name in streams.items()}
        self._queue: deque[tuple[KernelEvent, int]] = deque()
        self._queued = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._socket: DrainSocket | None = None
        self._endpoint = ""
        self._work: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = 0.0
        self._down = False
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    # -- opening and closing ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Lease the shards, subscribe, and wait until the subscriptions are in force."""
        with public_errors():
            try:
                if self._lease and self._shards:
                    for state in await self._host.hold(self._shards):
                        cursor = self._named(state.stream)
                        if cursor is not None:
                            epoch, seq = self._after.get(state.stream, (state.epoch, state.last))
                            cursor.start(self._host.instance, epoch, seq)
                self.open_socket()
                async with asyncio.timeout(_SUBSCRIBE_TIMEOUT):
                    while self._silent():
                        self._changed.clear()
                        await self._changed.wait()
                if self._beating():
                    self._heard = self._loop.time()
                    self._watching = asyncio.create_task(self._watch())
            except TimeoutError:
                await self.close()
                silent = ", ".join(self._silent())
                raise IpcError(ErrorCode.NOT_READY, f"no heartbeat on {silent}") from None
            except BaseException:
                await self.close()
                raise
        return self

    def _silent(self) -> list[str]:
        """Return the streams without a heartbeat yet."""
        return [cursor.stream for cursor in self._beating() if not cursor.heard]

    def _beating(self) -> list[StreamCursor]:
        """Return the streams that have heartbeats. A shard that we do not lease may stay silent."""
        return [
            cursor for cursor in self._cursors.values() if self._lease or cursor.stream in (_HEALTH, _PEERS)
        ]

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open_socket(self) -> None:
        """Connect to the kernel's events endpoint. No-op if already connected to it."""
        if self._closed or self._endpoint == self._host.events_endpoint:
            return
        if self._socket is not None:
            self._socket.close()
        self._endpoint = self._host.events_endpoint
        self._socket = DrainSocket(
            asyncio.get_running_loop(),
            open_subscriber(self._context, self._endpoint, hwm=_HWM),
            self._receive,
        )
        for topic in self._cursors:
            self._socket.subscribe(topic)

    async def close(self) -> None:
        """Unsubscribe and release the leases."""
        if self._closed or self._home.left:
            return
        self._closed = True
        self._changed.set()
        if self._socket is not None:
            self._socket.close()
        tasks = [task for task in (self._work, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._host.drop(self, self._shards if self._lease else ())

    # -- events out ------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[KernelEvent]:
        return self

    async def __anext__(self) -> KernelEvent:
        event = await self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next_event(self, timeout: float | None = None) -> KernelEvent:
        """Return the next event.

        Raises `DeadlineError` if there is none within `timeout` seconds, `ClosedError` if there can be no
        more.
        """
        try:
            async with asyncio.timeout(timeout):
                event = await self._next()
        except TimeoutError:
            raise DeadlineError(ErrorCode.DEADLINE_EXCEEDED, f"no event within {timeout:g} s") from None
        if event is None:
            raise ClosedError
        return event

    async def _next(self) -> KernelEvent | None:
        """Return the next event, or None at the end."""
        self._home.check()
        while not self._queue:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        event, cost = self._queue.popleft()
        self._queued -= cost
        if self._queued <= self._max_bytes // 2:
            self._room.set()
        return event

    @property
    def buffered_bytes(self) -> int:
        """Approximate memory of the buffered events."""
        return self._queued + sum(cursor.held.bytes for cursor in self._cursors.values())

    def put(self, event: KernelEvent) -> None:
        """Queue an event for the reader."""
        cost = _OVERHEAD + (len(event.payload) if isinstance(event, KernelMessage) else 0)
        if isinstance(event, KernelLost | KernelFound) and self._queued > 2 * self._max_bytes:
            return  # a kernel that flaps while the app does not read
        self._queue.append((event, cost))
        self._queued += cost
        if self._queued >= self._max_bytes:
            self._room.clear()
        self._changed.set()

    def lost(self, reason: str) -> None:
        """The connection for requests is lost."""
        if not self._down:
            self.put(KernelLost(reason))
        self._down = False

    def found(self, instance: bytes, *, restarted: bool) -> None:
        """The kernel is there again."""
        self.open_socket()
        self._down = False
        self._heard = self._loop.time()
        self.put(KernelFound(instance, restarted))

    async def _watch(self) -> None:
        """Ask the control socket when three heartbeats are missing (SPEC §3.1).

        A kernel that hangs keeps its connections, so nothing else shows it. One that answers may have sent
        events that did not come either.
        """
        while True:
            await asyncio.sleep(self._host.heartbeat)
            if not self._host.connected:
                continue
            if not self._down and self._loop.time() - self._heard <= _MISSED * self._host.heartbeat:
                continue
            await asyncio.sleep(0)  # our own loop may have been busy: what waits in the socket comes first
            if self._down or self._loop.time() - self._heard > _MISSED * self._host.heartbeat:
                await self._look_after()

    async def _look_after(self) -> None:
        answers = await self._host.answers()
        if not self._host.connected:
            return
        if not answers:
            if not self._down:
                self.put(KernelLost("no heartbeat, and no answer from its control socket"))
            self._down = True
            return
        if self._down:
            self.found(self._host.instance, restarted=False)
        self._heard = self._loop.time()
        for cursor in self._beating():
            self._catch_up(cursor)

    # -- events in -------------------------------------------------------------------------------------------

    def _receive(self, frames: list[bytes]) -> None:
        cursor = self._cursors.get(frames[0])
        try:
            if cursor is None or len(frames) != 3:
                raise IpcError(ErrorCode.BAD_REQUEST, f"{len(frames)} frames of {frames[0][:32]!r}")
            event = decode_header(frames[1])
        except IpcError as error:
            self.counters.garbage += 1
            log.debug("dropped an event: %s", error)
            if cursor is not None and (version := other_version(frames[1])) is not None:
                self._end(f"the kernel sends events of version {version}")
            return
        self._heard = self._loop.time()
        if type(event) is Heartbeat:
            if not cursor.heard:
                self._changed.set()
            verdict = cursor.heartbeat(event.instance, event.epoch, event.seq)
        elif not self._room.is_set() and not cursor.behind:
            # Full: the kernel's ring keeps it; the replay fetches it.
            verdict = CursorVerdict.CATCH_UP
        else:
            verdict = cursor.event(event.instance, event.epoch, event.seq)
            if verdict is not CursorVerdict.KEEP:
                self._hold(cursor, verdict, event, frames[2])
        self._report(cursor)
        if verdict is CursorVerdict.KEEP:
            self._show(cursor, event, frames[2])
        elif verdict is CursorVerdict.CATCH_UP:
            self._catch_up(cursor)

    def _hold(self, cursor: StreamCursor, verdict: CursorVerdict, event: Any, payload: bytes) -> None:
        """Keep what is behind a gap for the end of the replay."""
        gap = cursor.behind or verdict is CursorVerdict.CATCH_UP
        if gap and self._room.is_set() and cursor.stream not in (_HEALTH, _PEERS):
            self.counters.skipped += cursor.held.add(event, payload)
        else:
            self.counters.skipped += 1 + cursor.held.clear()

    def _end(self, reason: str) -> None:
        """Nothing more can be read (SPEC §3.1)."""
        assert self._socket is not None
        self._socket.close()
        self.put(KernelLost(reason))
        self._closing = self._loop.create_task(self.close())

    def _show(self, cursor: StreamCursor, event: Any, payload: bytes) -> None:
        if type(event) is MessageEvent:
            self.counters.received += 1
            before, behind = event[:_BEFORE_PAYLOAD], event[_BEFORE_PAYLOAD:]
            self.put(KernelMessage._make((cursor.stream, *before, payload, *behind)))
        elif type(event) is not UnknownEvent:
            self.counters.received += 1
            self.put(HealthEvent(*event) if type(event) is wire.HealthEvent else PeerEvent(*event))

    def _report(self, cursor: StreamCursor) -> None:
        losses, cursor.losses = cursor.losses, []
        if cursor.stream in (_HEALTH, _PEERS):
            if losses:
                self._catch_up(cursor)  # the complete list replaces the lost changes
            return
        for loss in losses:
            self.put(loss)

    def _named(self, stream: str) -> StreamCursor | None:
        return next((cursor for cursor in self._cursors.values() if cursor.stream == stream), None)

    # -- catching up -----------------------------------------------------------------------------------------

    def _catch_up(self, cursor: StreamCursor) -> None:
        cursor.behind = True
        if self._work is None and not self._closed:
            self._work = asyncio.get_running_loop().create_task(self._catch_up_all())

    async def _catch_up_all(self) -> None:
        """Fill the gaps of all streams, one after another: the kernel accepts one replay per consumer at a
        time."""
        try:
            await self._fill_all()
        finally:
            self._work = None

    async def _fill_all(self) -> None:
        delay = _RETRY
        while behind := [cursor for cursor in self._cursors.values() if cursor.behind]:
            for cursor in behind:
                await self._room.wait()
                try:
                    await self._fill(cursor)
                    delay = _RETRY
                except IpcError as error:
                    if error.retriable:
                        log.debug("catching up on %s: %s", cursor.stream, error)
                        await asyncio.sleep(delay)
                        delay = min(delay * 2, _RETRY_MAX)
                        continue
                    cursor.give_up(cursor.highest, str(error))
                    self._report(cursor)
                cursor.behind = False
                self.counters.skipped += cursor.held.clear()

    async def _fill(self, cursor: StreamCursor) -> None:
        if cursor.stream == _HEALTH:
            reply = await self._host.ask(methods.NODE_HEALTH)
            cursor.jump(cursor.highest)
            health = NodeHealth.from_body(reply.body)
            self.put(HealthEvent(reply.instance, cursor.epoch, cursor.last, 0, health))
        elif cursor.stream == _PEERS:
            reply = await self._host.ask(methods.PEERS_LIST)
            cursor.jump(cursor.highest)
            self.put(PeersSnapshot(methods.PeersListReply.from_body(reply.body).peers))
        else:
            while not await self._replay_page(cursor):
                await self._room.wait()

    async def _replay_page(self, cursor: StreamCursor) -> bool:
        """Fetch one page of a replay. Return True if it was the last one."""
        request = methods.StreamReplayRequest(stream=cursor.stream, epoch=cursor.epoch, after=cursor.last)
        self.counters.replays += 1
        try:
            async with self._host.replay_lock:
                reply = await self._host.ask(methods.STREAM_REPLAY, request.to_body())
        except IpcError as error:
            first = methods.trimmed_first(error, cursor.last)
            if first is not None:
                cursor.give_up(first - 1, "no longer in the kernel's ring")
            elif error.code is ErrorCode.EPOCH_CHANGED:
                state = StreamState.from_body(error.detail)
                if state.epoch == cursor.epoch:
                    # It names the epoch that we asked for: asking again at once would turn in circles.
                    raise IpcError(ErrorCode.INTERNAL, f"{cursor.stream}: {error.message}") from error
                cursor.restart(self._host.instance, state.epoch, "the kernel restarted this stream")
            else:
                raise
            self._report(cursor)
            return False
        page = methods.StreamReplayReply.from_body(reply.body)
        events = methods.replayed_events(page, reply.blobs)
        for header, payload in events:
            event = decode_header(header)
            if cursor.replayed(event.instance, event.epoch, event.seq) is CursorVerdict.KEEP:
                self._show(cursor, event, payload)
        self._report(cursor)
        if not events and not page.complete:
            raise IpcError(ErrorCode.INTERNAL, f"an empty page in a replay of {cursor.stream}")
        held = cursor.take_held()
        for event, payload in held:
            if cursor.replayed(event.instance, event.epoch, event.seq) is CursorVerdict.KEEP:
                self._show(cursor, event, payload)
        return bool(held) or page.complete
