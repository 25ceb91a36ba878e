"""One session of reconciliation over a stream, from either end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import Stream
from kernel_proc.protocols.framing import MessageReader, encode_frame
from kernel_proc.protocols.sync.codec import SyncPayload, decode_payload, encode_payload
from kernel_proc.protocols.sync.invitations import Grant
from kernel_proc.protocols.sync.keys import KEY_SIZE
from kernel_proc.protocols.sync.reconcile import (
    Reconciliation,
    TopicFilter,
    common_topics,
)
from kernel_proc.protocols.sync.stock import SyncStock

MAX_FRAME: Final = 16 << 20
"""nwaku has no limit. It lists at most 100 messages of a range, and answers a list with all that it has of
the range: this is room for 400,000."""
MAX_SESSION_BYTES: Final = 64 << 20
MAX_ROUNDS: Final = 64
"""Frames of the other side. A range of 2^63 ns is cut into nanoseconds by 21."""
FRAME_SECONDS: Final = 30.0
"""For each frame of the other side."""
THREAD_BYTES: Final = 64 * 1024
"""Frames from this size on are decoded and encoded in a thread."""


class SessionFailed(Exception):
    """The session ended early. `kind` for counters: stalled, too_long, too_large."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


T = TypeVar("T")


class SyncSession:
    """Our side of one session. What is to be sent and what was asked for is in `totals` and `grant`."""

    def __init__(
        self, stream: Stream, stock: SyncStock, own: TopicFilter, grant: Grant, registry: Registry
    ) -> None:
        self._stream = stream
        self._reader = MessageReader(stream, MAX_FRAME)
        self._stock = stock
        self._own = own
        self._window = stock.window()
        self._core = Reconciliation(self._window, own, invite=grant.invite)
        self.totals = self._core.totals
        """What was found so far."""
        self.totals.wanted = grant.wanted
        self._frames = self._bytes = 0
        self._counters = {
            direction: registry.counter(
                "total_bytes_exchanged", protocol="reconciliation", direction=direction
            )
            for direction in ("receive", "sent")
        }

    async def run(self, *, opens: bool) -> None:
        """Run to the end. Raise `SessionFailed`, `SyncCodecError`, `StreamFrameError`, `P2pError`,
        `ArchiveError` or `TooManyKeys`."""
        if opens:
            view = await self._stock.view(self._own, self._window)
            await self._write(self._core.first(view))
        while (payload := await self._read()) is not None:
            # WAKU-SYNC: each side names its topics; sides that share none have nothing to compare, and an
            # empty frame says so.
            common = self._common(payload)
            if common is None:
                await self._write_frame(b"")
                return
            # A fresh view per round: messages that arrived meanwhile, by relay or by transfer, are not asked
            # for.
            view = await self._stock.view(common, self._window)
            answer: SyncPayload | None = None
            for answer in self._core.answer(payload, view):
                if answer is None:
                    await trio.lowlevel.checkpoint()
            if answer is None:
                return
            await self._write(answer)
            if not answer.ranges:
                return

    def _common(self, payload: SyncPayload) -> TopicFilter | None:
        if not payload.ranges:
            return self._own  # the end, which names no topics
        pubsub = common_topics(self._own.pubsub_topics, payload.pubsub_topics)
        content = common_topics(self._own.content_topics, payload.content_topics)
        return None if pubsub is None or content is None else TopicFilter(pubsub, content)

    async def _read(self) -> SyncPayload | None:
        self._frames += 1
        if self._frames > MAX_ROUNDS:
            raise SessionFailed("too_long", f"more than {MAX_ROUNDS} frames")
        with trio.move_on_after(FRAME_SECONDS) as scope:
            frame = await self._reader.read()
        if scope.cancelled_caught:
            raise SessionFailed("stalled", f"no frame within {FRAME_SECONDS:g} s")
        if frame is None:
            return None
        self._bytes += len(frame)
        self._counters["receive"].add(len(frame))
        if self._bytes > MAX_SESSION_BYTES:
            raise SessionFailed("too_large", f"more than {MAX_SESSION_BYTES} bytes")
        return await _work(len(frame), lambda: decode_payload(frame))

    async def _write(self, payload: SyncPayload) -> None:
        size = sum(
            len(one.content) if isinstance(one.content, bytes) else KEY_SIZE * len(one.content.keys)
            for one in payload.ranges
            if one.content is not None
        )
        await self._write_frame(await _work(size, lambda: encode_payload(payload)))

    async def _write_frame(self, body: bytes) -> None:
        with trio.move_on_after(FRAME_SECONDS) as scope:
            await self._stream.write(encode_frame(body))
        if scope.cancelled_caught:
            raise SessionFailed("stalled", f"a frame was not read within {FRAME_SECONDS:g} s")
        self._counters["sent"].add(len(body))


async def _work(size: int, work: Callable[[], T]) -> T:
    """Run pure work on so many bytes, in a thread if it takes long."""
    return work() if size < THREAD_BYTES else await trio.to_thread.run_sync(work)
