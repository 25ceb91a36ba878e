"""Sending: from an app's request to the fate that the app is told (messaging-api, SPEC.md 4.2).

Accepted means on disk. The request id is the idempotency key within the app's stream: concurrent twins are
joined, a repeat is answered as the first time, another body under the same id is a conflict.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.kernel.methods import RELAY_PUBLISH, RelayPublishReply, RelayPublishRequest
from ipc_schema.mapi.events import AppEventKind, pack_fields
from ipc_schema.mapi.methods import SendRequest
from ipc_schema.message import WakuMessage, encode_message, message_hash
from ipc_schema.sizes import relay_frame_size, too_large_text
from ipc_schema.topics import shard_topic
from mapi_proc.database import (
    Database,
    DatabaseBusyError,
    DatabaseClosedError,
    OutboxEntry,
    OutboxState,
    RequestExistsError,
)
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.network import Network
from mapi_proc.send.loop import SendLoop
from mapi_proc.send.task import NoPeers, Outcome, Published, Refused, SendTask, State, Unknown
from mapi_proc.streams import AppStream
from mapi_proc.turn import Turn

__all__ = ["SendCounters", "SendService", "fingerprint"]

log = logging.getLogger(__name__)

REQUEST_MEMORY_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a request id is remembered after its send was accepted."""
_RECENT: Final = 4096
"""Request ids in memory; older ones are looked up on disk."""
_PUBLISH_TIMEOUT: Final = 10.0
_LEASE_WAIT: Final = 5.0
_NEVER_SENT: Final = frozenset(
    {ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.RESYNCING, ErrorCode.RATE_LIMITED, ErrorCode.NO_PEERS}
)
_FINAL: Final = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.TOO_LARGE,
        ErrorCode.RLN_REQUIRED,
        ErrorCode.UNAUTHORISED,
        ErrorCode.UNKNOWN_METHOD,
    }
)


def fingerprint(request: SendRequest, payload: bytes) -> bytes:
    """Stands for the whole body of a send: tells a repeat from a conflict."""
    topic = request.content_topic.encode()
    digest = sha256(b"%d:%d:%d:" % (len(topic), len(request.meta), request.ephemeral))
    for part in (topic, request.meta, payload):
        digest.update(part)
    return digest.digest()


@dataclass(slots=True)
class SendCounters:
    """Sends since the start."""

    accepted: int = 0
    repeated: int = 0
    propagated: int = 0
    failed: int = 0
    attempts: int = 0


class StreamFinder(Protocol):
    """Finds the app's stream a send belongs to; None when the app is gone."""

    def __call__(self, stream_id: bytes, /) -> AppStream | None: ...


class SendService:
    """All sends of all apps. Implements `SendStore` for its loop."""

    def __init__(
        self,
        database: Database,
        turn: Turn,
        link: KernelLink,
        network: Callable[[], Network],
        find_stream: StreamFinder,
        *,
        clock: Callable[[], float],
        now_ns: Callable[[], int],
        jitter: Callable[[], float],
        window: float,
        max_tasks: int,
        max_bytes: int,
        next_entry_id: int,
    ) -> None:
        self._database = database
        self._turn = turn
        self._link = link
        self._network = network
        self._find_stream = find_stream
        self._clock = clock
        self._now_ns = now_ns
        self._entry_ids = itertools.count(next_entry_id)
        self._recent: OrderedDict[tuple[bytes, bytes], tuple[bytes, asyncio.Future[None] | None]] = (
            OrderedDict()
        )
        self._evict_at = 0
        self.counters = SendCounters()
        self.loop = SendLoop(
            self,
            clock=clock,
            jitter=jitter,
            window=window,
            max_tasks=max_tasks,
            max_bytes=max_bytes,
        )

    # -- accepting ---------------------------------------------------------------------------------------

    def check(self, request: SendRequest, payload: bytes) -> int:
        """What can be refused at once, is. Returns the shard. Raises IpcError."""
        network = self._network()
        if network.info.rln_required:
            raise IpcError(
                ErrorCode.RLN_REQUIRED,
                f"network {network.info.preset or network.info.cluster} needs an RLN proof with each message",
            )
        if not payload:
            raise IpcError(ErrorCode.BAD_REQUEST, "payload: empty")
        shard = network.shard_of_checked(request.content_topic)
        maximum = network.info.max_message_size
        message = WakuMessage(payload, request.content_topic, 0, self._now_ns(), request.meta)
        size = len(encode_message(message))
        if relay_frame_size(size, shard_topic(network.info.cluster, shard)) > maximum:
            raise IpcError(ErrorCode.TOO_LARGE, too_large_text(maximum))
        return shard

    async def accept(self, stream: AppStream, request: SendRequest, payload: bytes, shard: int) -> bool:
        """Take over a checked send; returns when it is on disk. True: it was accepted before (a repeat)."""
        mark = fingerprint(request, payload)
        key = (stream.stream_id, request.request_id)
        known = self._recent.get(key)
        if known is not None:
            return await self._repeat(mark, known[0], known[1])
        self.loop.check_room(len(payload))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        self._recent[key] = (mark, done)
        entry = OutboxEntry(
            entry_id=next(self._entry_ids),
            scope=stream.stream_id,
            request_id=request.request_id,
            fingerprint=mark,
            content_topic=request.content_topic,
            payload=payload,
            meta=request.meta,
            ephemeral=request.ephemeral,
            accepted=self._now_ns(),
        )

        def committed() -> None:
            self.counters.accepted += 1
            self._recent[key] = (mark, None)
            self._trim_recent()
            self.loop.accept(_task(entry, shard))
            if not done.done():
                done.set_result(None)

        def failed(error: Exception) -> None:
            self._recent.pop(key, None)
            if not done.done():
                done.set_exception(error)

        batch = self._database.batch(durable=True)
        batch.put_send(entry)
        self._evict_old(batch.evict_requests)
        try:
            self._database.submit(batch, committed, failed)
        except (DatabaseBusyError, DatabaseClosedError) as error:
            failed(error)
        try:
            await asyncio.shield(done)
        except RequestExistsError:
            stored = await self._database.find_request(*key)
            if stored is None:
                raise
            return await self._repeat(mark, stored.fingerprint, None)
        except DatabaseBusyError as error:
            raise IpcError(ErrorCode.BUSY, "the disk is behind", retry_after_ms=200) from error
        except DatabaseClosedError as error:
            raise IpcError(ErrorCode.NOT_READY, "shutting down") from error
        return False

    async def _repeat(self, mark: bytes, first: bytes, done: asyncio.Future[None] | None) -> bool:
        if mark != first:
            raise IpcError(ErrorCode.CONFLICT, "this request id was used for another message")
        if done is not None:
            try:
                await asyncio.shield(done)
            except (DatabaseBusyError, DatabaseClosedError, RequestExistsError) as error:
                raise IpcError(ErrorCode.BUSY, "its first try was not stored", retry_after_ms=200) from error
        self.counters.repeated += 1
        return True

    def _trim_recent(self) -> None:
        while len(self._recent) > _RECENT:
            key, (_, done) = next(iter(self._recent.items()))
            if done is not None:
                break  # still on its way to the disk
            del self._recent[key]

    def _evict_old(self, evict: Callable[[int], None]) -> None:
        now = self._now_ns()
        if now >= self._evict_at:
            self._evict_at = now + 600 * 1_000_000_000
            evict(now - REQUEST_MEMORY_NS)

    def resume(self, entries: list[OutboxEntry]) -> None:
        """Go on with what was accepted before a restart."""
        for entry in entries:
            try:
                shard = self._network().shard_of_checked(entry.content_topic)
            except IpcError as error:
                task = _task(entry, 0)
                task.state, task.error = State.FAILED, error.message
                self.finished(task)
                continue
            self.loop.resume(_task(entry, shard), entry.elapsed / 1e9)

    # -- SendStore: what the loop asks for ---------------------------------------------------------------

    async def attempting(self, task: SendTask) -> None:
        """Fix timestamp and hash, and wait until they are on disk."""
        task.timestamp = self._now_ns()
        task.message_hash = message_hash(
            shard_topic(self._network().info.cluster, task.shard),
            WakuMessage(task.payload, task.content_topic, timestamp=task.timestamp, meta=task.meta),
        )
        batch = self._database.batch()
        batch.change_send(
            task.entry_id,
            OutboxState.ATTEMPTED,
            attempts=1,
            timestamp=task.timestamp,
            message_hash=task.message_hash,
            first_attempt=task.timestamp,
            propagated=0,
            elapsed=0,
        )
        while True:
            try:
                await self._database.commit(batch)
            except DatabaseBusyError:
                room = asyncio.Event()
                self._database.when_room(room.set)
                await room.wait()
            else:
                return

    async def publish(self, task: SendTask, force: bool) -> Outcome:
        """One attempt through the kernel's relay."""
        # Before the kernel records the shard for us, our own apps would not hear of the message.
        if not await self._link.wait_leased((task.shard,), _LEASE_WAIT):
            return NoPeers()
        self.counters.attempts += 1
        request = RelayPublishRequest(
            content_topic=task.content_topic,
            shard=task.shard,
            timestamp=task.timestamp,
            meta=task.meta,
            ephemeral=task.ephemeral,
            force=force,
        )
        try:
            reply: Reply = await self._link.request(
                RELAY_PUBLISH, request.to_body(), [task.payload], timeout=_PUBLISH_TIMEOUT
            )
            answer = RelayPublishReply.from_body(reply.body)
        except IpcError as error:
            return _outcome(error)
        return Published(answer.peers, answer.duplicate)

    def retrying(self, task: SendTask, window_used: float) -> None:
        """Keep how much of the window is used."""
        self._turn.batch.change_send(
            task.entry_id,
            OutboxState.ATTEMPTED,
            attempts=task.attempts,
            timestamp=task.timestamp,
            message_hash=task.message_hash,
            first_attempt=task.timestamp,
            propagated=0,
            elapsed=int(window_used * 1e9),
        )

    def finished(self, task: SendTask) -> None:
        """Final: the state, and the event in the app's stream, in one transaction."""
        now = self._now_ns()
        batch = self._turn.batch
        if task.state is State.PROPAGATED:
            self.counters.propagated += 1
            # Not asked of any store in this version: final on disk, but nothing claims that it is stored.
            batch.finish_send(task.entry_id, OutboxState.UNCONFIRMED, now, "propagated")
            kind = AppEventKind.MESSAGE_PROPAGATED
            fields = pack_fields(task.request_id, task.message_hash)
        else:
            self.counters.failed += 1
            batch.finish_send(task.entry_id, OutboxState.FAILED, now, task.error)
            kind = AppEventKind.MESSAGE_ERROR
            fields = pack_fields(task.request_id, task.message_hash or None, task.error)
        stream = self._find_stream(task.scope)
        if stream is not None:
            stream.append(kind, now, fields, b"", batch)


def _retrieve(done: asyncio.Future[None]) -> None:
    """A future whose waiter went away still had its error looked at."""
    if not done.cancelled():
        done.exception()


def _outcome(error: IpcError) -> Outcome:
    if error.code in _NEVER_SENT:
        return NoPeers()
    if error.code in _FINAL:
        return Refused(error.message)
    return Unknown(error.message)


def _task(entry: OutboxEntry, shard: int) -> SendTask:
    return SendTask(
        request_id=entry.request_id,
        scope=entry.scope,
        content_topic=entry.content_topic,
        shard=shard,
        payload=entry.payload,
        meta=entry.meta,
        ephemeral=entry.ephemeral,
        entry_id=entry.entry_id,
        timestamp=entry.timestamp,
        message_hash=entry.message_hash,
        attempts=entry.attempts,
    )
