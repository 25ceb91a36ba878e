"""The way to one subscriber: its queue, and the task that writes it out over one stream, used again and
again.

Nothing here is ever waited for by whoever has a message to push.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

import trio

from kernel_proc.p2p.api import Host, P2pError, PeerIdText, Stream, StreamClosed
from kernel_proc.protocols.filter.codec import PUSH_PROTOCOL
from kernel_proc.protocols.filter.push_queue import PushFrame, PushQueue

__all__ = ["PushLink", "PushParams"]

log = logging.getLogger(__name__)

STALL_SECONDS: Final = 1.0
"""A failed write that took this long failed because the peer takes nothing, not for a cut stream."""
MAX_UNEXPECTED: Final = 64
"""Reads of what a subscriber writes on our push stream; then the stream goes."""


class PushParams(NamedTuple):
    """Times in seconds, sizes in bytes."""

    queue_count: int = 256
    """Frames that wait for one subscriber."""
    queue_bytes: int = 1024 * 1024
    budget: int = 64 * 1024 * 1024
    """Distinct frames that wait for all subscribers together."""
    write_bytes: int = 60_000
    """Frames joined into one write."""
    push_timeout: float = 20.0
    """For one write (nwaku: for a message's whole fan-out)."""
    open_timeout: float = 10.0
    retry: float = 10.0
    """Between attempts to reach a subscriber that cannot be reached; at once when it connects."""
    settled: float = 15.0
    """After a stall only a stream of this age shows that the peer reads again: a new stream takes a whole
    window of bytes that nobody reads."""
    unreachable: float = 60.0
    """A subscriber that pushes do not reach for so long is forgotten (12/WAKU2-FILTER)."""
    sweep: float = 60.0
    """How often the table of subscribers is gone through."""
    wake_at_once: int = 16
    """Writers that begin in one turn of the loop: a message for a thousand subscribers must not keep the
    relay, nor anything else, from its turn."""


class PushLink:
    """One subscriber's queue and writer.

    `counters` (sent, failed, dropped, streams, unexpected) are shared by all links; the first three count
    frames.
    """

    def __init__(
        self, host: Host, peer_id: PeerIdText, queue: PushQueue, params: PushParams, counters: dict[str, int]
    ) -> None:
        self.peer_id = peer_id
        self.ready = False
        """Queued for, and about to be told so."""
        self.failing_since: float | None = None
        """When the first push failed since the last one that went out."""
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
        """Frames waiting."""
        return len(self._queue)

    def offer(self, frame: PushFrame) -> bool:
        """Queue a frame, or drop and count it. `wake` tells the writer."""
        if self._queue.put(frame):
            return True
        self._counters["dropped"] += 1
        return False

    def wake(self) -> None:
        """There is something to write."""
        self.ready = False
        self._go.set()

    def reconnected(self) -> None:
        """The peer is there (again): no need to wait any longer."""
        self._retry.set()

    def heard(self) -> None:
        """The peer made a request: it is alive."""
        self.failing_since = None
        self._stalled = False

    def close(self) -> None:
        """The peer is no subscriber any more."""
        self._scope.cancel()
        self._counters["dropped"] += self._queue.clear()

    async def run(self) -> None:
        """Write what is queued until closed or cancelled. Raises nothing else."""
        with self._scope:
            while True:
                while not self._queue:
                    await self._wait()
                self._retry = trio.Event()
                try:
                    stream = await self._host.open_stream(
                        self.peer_id, (PUSH_PROTOCOL,), deadline=self._params.open_timeout
                    )
                except P2pError as error:
                    log.debug("no push stream to %s: %s", self.peer_id, error)
                    self._failed()
                    with trio.move_on_after(self._params.retry):
                        await self._retry.wait()
                    continue
                self._counters["streams"] += 1
                await self._serve(stream)

    async def _serve(self, stream: Stream) -> None:
        """Write until the stream ends, on whichever side, or the peer is no subscriber any more.

        Only a stream that was left amid a frame is reset: js-waku would lose what it has not read yet.
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
                        whole = False
                        whole = await self._write(stream, data, count, opened)
                    else:
                        await self._wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await (stream.close() if whole else stream.reset())

    async def _write(self, stream: Stream, data: bytes, count: int, opened: float) -> bool:
        begun = trio.current_time()
        written = False
        try:
            with trio.move_on_after(self._params.push_timeout):
                await stream.write(data)
                written = True
        except StreamClosed as error:
            log.debug("push to %s: %s", self.peer_id, error)
        finally:
            self._counters["sent" if written else "failed"] += count
        now = trio.current_time()
        if not written:
            self._stalled = self._stalled or now - begun >= STALL_SECONDS
            self._failed()
        elif not self._stalled or now - opened >= self._params.settled:
            self.heard()
        return written

    async def _watch(self, stream: Stream, ended: trio.Event) -> None:
        """Subscribers write nothing on a push stream: what can be read is its end. A half-closed one may be
        read on or not, who can tell: the next push takes a new one."""
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
