"""The push side of one subscriber: its queue, and a task that drains it over one reused stream.

Delivering a message never waits for anything in here.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final, NamedTuple

import trio

from kernel_proc.p2p.api import Host, P2pError, PeerIdText, Stream, StreamClosed
from kernel_proc.protocols.filter.codec import PUSH_PROTOCOL
from kernel_proc.protocols.filter.push_queue import PushFrame, PushQueue

log = logging.getLogger(__name__)

STALL_SECONDS: Final = 1.0
"""A failed write that lasted this long counts as a stall (the peer does not read) rather than a broken
stream."""
MAX_UNEXPECTED: Final = 64
"""Reads of unexpected data on our push stream before it is reset."""


class PushParams(NamedTuple):
    """Durations in seconds, sizes in bytes."""

    queue_count: int = 256
    """Maximum frames queued per subscriber."""
    queue_bytes: int = 1024 * 1024
    budget: int = 64 * 1024 * 1024
    """Bytes of distinct frames queued for all subscribers together."""
    write_bytes: int = 60_000
    """Join queued frames up to this size per write."""
    push_timeout: float = 20.0
    """For one write (nwaku: for the whole fan-out of a message)."""
    open_timeout: float = 10.0
    retry: float = 10.0
    """Delay between attempts to reach a subscriber; skipped when it reconnects."""
    settled: float = 15.0
    """Minimum age of a stream to prove that a stalled peer reads again: a new stream accepts a full window
    of data even if the peer never reads it."""
    unreachable: float = 60.0
    """Remove a subscriber that pushes have not reached for this long (12/WAKU2-FILTER)."""
    sweep: float = 60.0
    """Interval of the subscriber sweep."""
    wake_at_once: int = 16
    """Writers woken per turn of the event loop: a message for a thousand subscribers must not stall the
    relay."""


class PushLink:
    """The queue and writer of one subscriber.

    `counters` (sent, failed, dropped, streams, unexpected) are shared by all links; the first three count
    frames.
    """

    def __init__(
        self, host: Host, peer_id: PeerIdText, queue: PushQueue, params: PushParams, counters: Counter[str]
    ) -> None:
        self.peer_id = peer_id
        self.ready = False
        """A frame was queued and a wake-up is pending."""
        self.failing_since: float | None = None
        """Time of the first failed push since the last successful one."""
        self._host = host
        self._queue = queue
        self._params = params
        self._counters = counters
        self._stalled = False
        self._go = trio.Event()
        self._retry = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def queued(self) -> int:
        """Number of queued frames."""
        return len(self._queue)

    def offer(self, frame: PushFrame) -> bool:
        """Queue a frame, or drop and count it. Call `wake` afterwards."""
        if self._queue.put(frame):
            return True
        self._counters["dropped"] += 1
        return False

    def wake(self) -> None:
        self.ready = False
        self._go.set()

    def reconnected(self) -> None:
        """Retry at once, because the peer has reconnected."""
        self._retry.set()

    def mark_alive(self) -> None:
        """Reset the failure state, because the peer has shown itself alive."""
        self.failing_since = None
        self._stalled = False

    def close(self) -> None:
        """Stop, because the peer is no longer subscribed."""
        self._scope.cancel()
        self._counters["dropped"] += self._queue.clear()

    async def run(self) -> None:
        """Write queued frames until closed or cancelled. Raise nothing else."""
        with self._scope:
            while True:
                # Open a stream only when there is something to push: idle streams count against the peer's
                # limits.
                while not self._queue:
                    await self._wait()
                self._retry = trio.Event()
                try:
                    stream = await self._host.open_stream(
                        self.peer_id, (PUSH_PROTOCOL,), deadline=self._params.open_timeout
                    )
                except P2pError as error:
                    log.debug("cannot open push stream to %s: %s", self.peer_id, error)
                    self._failed()
                    with trio.move_on_after(self._params.retry):
                        await self._retry.wait()
                    continue
                self._counters["streams"] += 1
                await self._serve(stream)

    async def _serve(self, stream: Stream) -> None:
        """Write until either side ends the stream or the subscriber is removed.

        Reset only a stream that was left in the middle of a frame: after a reset, js-waku loses data it has
        not read yet.
        """
        opened = trio.current_time()
        ended = trio.Event()
        whole = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, stream, ended)
                while whole and not ended.is_set():
                    data, count = self._queue.take(self._params.write_bytes)
                    if count:
                        # Until the write returns, the peer may have part of a frame.
                        whole = False
                        whole = await self._write(stream, data, count, opened)
                    else:
                        await self._wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await (stream.close() if whole else stream.reset())

    async def _write(self, stream: Stream, data: bytes, count: int, opened: float) -> bool:
        started = trio.current_time()
        written = False
        try:
            with trio.move_on_after(self._params.push_timeout):
                await stream.write(data)
                written = True
        except StreamClosed as error:
            log.debug("push to %s failed: %s", self.peer_id, error)
        finally:
            self._counters["sent" if written else "failed"] += count
        now = trio.current_time()
        # A write that fails at once is a closed stream; one that failed slowly is a peer that does not read.
        if not written:
            self._stalled = self._stalled or now - started >= STALL_SECONDS
            self._failed()
        elif not self._stalled or now - opened >= self._params.settled:
            self.mark_alive()
        return written

    async def _watch(self, stream: Stream, ended: trio.Event) -> None:
        """Wait for the end of the stream. Subscribers send nothing on it.

        Whether a half-closed stream is still being read is unknowable, so the next push opens a new one.
        """
        unexpected = 0
        try:
            while await stream.read(1024):
                unexpected += 1
                self._counters["unexpected"] += 1
                if unexpected > MAX_UNEXPECTED:
                    await stream.reset()
        except StreamClosed:
            pass  # reset by the peer or by us, or the connection is gone
        ended.set()
        self._go.set()

    async def _wait(self) -> None:
        self._go = trio.Event()
        await self._go.wait()

    def _failed(self) -> None:
        if self.failing_since is None:
            self.failing_since = trio.current_time()
