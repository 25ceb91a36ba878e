"""Accept sends: refuse at once what can be, persist before accepting, recognise repeats (SPEC.md, 4.2).

Accepted means on disk, surviving a host crash. The request id is the idempotency key within the app's stream:
concurrent twins are joined, a repeat gets the first answer again, and another body under the same id is a
conflict. What is accepted in one turn of the event loop goes to the disk together.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.methods import MAX_TIMESTAMP_LEAD_NS, SendRequest
from ipc_schema.message import WakuMessage, encode_message
from ipc_schema.sizes import relay_frame_size, too_large_text
from ipc_schema.topics import shard_topic
from mapi_proc.database import (
    BatchRefusedError,
    Database,
    DatabaseBusyError,
    DatabaseClosedError,
    OutboxEntry,
    OutboxState,
)
from mapi_proc.network import AppNetwork
from mapi_proc.send.fairness import Room
from mapi_proc.send.task import SendTask
from mapi_proc.streams import AppStream

REQUEST_MEMORY_NS: Final = 24 * 3600 * 1_000_000_000
"""How long a request id is remembered after acceptance."""
_RECENT: Final = 4096
"""Request ids in memory; older ones are looked up on disk."""
_EVICT_EVERY_NS: Final = 600 * 1_000_000_000
_PARKED: Final = (OutboxState.PARKED, 0)
_BATCH_BYTES: Final = 1 << 20
"""Payloads of so many bytes go to the disk before the turn ends."""

_new_tuple = tuple.__new__  # of many fields: the class itself takes ten times as long


def fingerprint(request: SendRequest, payload: bytes) -> bytes:
    """Hash the whole body of a send, to distinguish a repeat from a conflict."""
    topic = request.content_topic.encode()
    # Lengths first: without them two different splits into topic, meta and payload would hash alike.
    digest = sha256(b"%d:%d:%d:" % (len(topic), len(request.meta), request.ephemeral))
    for part in (topic, request.meta, payload):
        digest.update(part)
    if request.timestamp is not None:
        digest.update(b":%d" % request.timestamp)
    return digest.digest()


class FirstAttempt(NamedTuple):
    """What the first attempt fixes for ever; it is on disk before the attempt is made."""

    timestamp: int
    message_hash: bytes
    first_attempt: int
    """When it is made, as the `WindowClock` labels it."""


class SendIntake(Protocol):
    """Takes over what is accepted."""

    def plan(self, request: SendRequest, payload: bytes, shard: int) -> FirstAttempt | None:
        """Return the first attempt if it can be made as soon as the send is on disk. Both are then stored at
        once, which saves a commit and the wait for it. None: it is recorded when its turn comes."""

    def accepted(self, entry: OutboxEntry, shard: int, attempt: FirstAttempt | None, timestamp: int) -> None:
        """It is on disk. Its room stays reserved. `timestamp`: the one that the app fixed, or 0."""

    def all_accepted(self) -> None:
        """Those that were on their way to the disk together have been taken over."""

    def abandoned(self, attempt: FirstAttempt | None) -> None:
        """It is not stored, so what was planned is not made."""


class _Coming(NamedTuple):
    """A send on its way to the disk."""

    entry: OutboxEntry
    shard: int
    stream: AppStream
    attempt: FirstAttempt | None
    timestamp: int
    """That the app fixed, or 0."""
    done: asyncio.Future[bool]


class Acceptance:
    """Accepts sends.

    Room is reserved before a send goes to the disk: of a burst that is on its way there, no more is let in
    than there is room for.
    """

    def __init__(
        self,
        database: Database,
        network: Callable[[], AppNetwork],
        *,
        now_ns: Callable[[], int],
        wall_ns: Callable[[], int],
        room: Room,
        intake: SendIntake,
        next_entry_id: int,
    ) -> None:
        self._database = database
        self._network = network
        self._now_ns = now_ns
        self._wall_ns = wall_ns
        self._room = room
        self._intake = intake
        self._loop = asyncio.get_running_loop()
        self._entry_ids = itertools.count(next_entry_id)
        self._recent: OrderedDict[tuple[bytes, bytes], tuple[bytes, asyncio.Future[bool] | None]] = (
            OrderedDict()
        )
        self._coming: list[_Coming] = []
        """Of this turn."""
        self._coming_bytes = 0
        self._comparing: set[asyncio.Task[None]] = set()
        self._evict_at = 0
        self.repeated = 0

    def check(self, request: SendRequest, payload: bytes) -> int:
        """Refuse what can be refused at once. Return the shard. Raises IpcError."""
        network = self._network()
        if network.info.rln_required:
            raise IpcError(
                ErrorCode.RLN_REQUIRED,
                f"network {network.info.preset or network.info.cluster} needs an RLN proof with each message",
            )
        if not payload:
            raise IpcError(ErrorCode.BAD_REQUEST, "payload: empty")
        if request.timestamp is not None:
            ahead = request.timestamp - self._wall_ns()
            if ahead > MAX_TIMESTAMP_LEAD_NS:
                raise IpcError(
                    ErrorCode.BAD_REQUEST,
                    f"timestamp: {ahead / 1e9:.0f} s ahead of this host's clock, "
                    f"at most {MAX_TIMESTAMP_LEAD_NS // 1_000_000_000} are accepted",
                )
        try:
            return network.shard_of_checked(request.content_topic)
        except IpcError as error:
            raise IpcError(error.code, f"Failed to auto-subscribe before sending: {error.message}") from error

    def too_large(self, task: SendTask) -> str:
        """Return the reference's text if the message exceeds the network's maximum size, otherwise an empty
        string.

        As in the reference, such a message is accepted, and its outcome is an error.
        """
        network = self._network()
        if len(task.payload) <= network.max_payload:  # it certainly fits: nothing need be encoded to know it
            return ""
        info = network.info
        message = WakuMessage(task.payload, task.content_topic, 0, task.timestamp, task.meta)
        size = relay_frame_size(len(encode_message(message)), shard_topic(info.cluster, task.shard))
        return too_large_text(info.max_message_size) if size > info.max_message_size else ""

    def accept(self, stream: AppStream, request: SendRequest, payload: bytes, shard: int) -> Awaitable[bool]:
        """Accept a checked send. The result, once it is on disk, is whether it is a repeat.

        A new send is on its way when this returns. Do not cancel the result: others may wait for it.
        Raises IpcError, here or with the result.
        """
        mark = fingerprint(request, payload)
        key = (stream.stream_id, request.request_id)
        known = self._recent.get(key)
        if known is not None:
            return self._repeat(mark, known[0], known[1])
        # Reserve before the disk write, not after it: a burst must not pass the bound while it is being
        # written.
        self._room.reserve(stream.stream_id, len(payload))
        done: asyncio.Future[bool] = self._loop.create_future()
        self._recent[key] = (mark, done)
        attempt = self._intake.plan(request, payload, shard)
        fixed = request.timestamp or 0
        timestamp, digest, first = (fixed, b"", 0) if attempt is None else attempt
        state, attempts = _PARKED if attempt is None else (OutboxState.ATTEMPTED, 1)
        entry = _new_tuple(
            OutboxEntry,
            (
                next(self._entry_ids),
                stream.stream_id,
                request.request_id,
                mark,
                request.content_topic,
                payload,
                request.meta,
                request.ephemeral,
                self._now_ns(),
                state,
                attempts,
                timestamp,
                digest,
                first,
                0,
                0,
                0,
                "",
            ),
        )
        if not self._coming:
            self._loop.call_soon(self.flush)
        self._coming.append(_new_tuple(_Coming, (entry, shard, stream, attempt, fixed, done)))
        self._coming_bytes += len(payload)
        if self._coming_bytes >= _BATCH_BYTES:
            self.flush()
        return done

    def flush(self) -> None:
        """Write this turn's sends to disk: at its end at the latest, earlier to preserve an order."""
        coming, self._coming, self._coming_bytes = self._coming, [], 0
        if coming:
            self._store(coming)

    def _store(self, coming: Sequence[_Coming]) -> None:
        # Durable: synced to the disk before the app is told that the send is accepted.
        batch = self._database.batch(durable=True)
        for one in coming:
            batch.put_send(one.entry)
        self._evict_old(batch.evict_requests)

        def failed(error: Exception) -> None:
            if isinstance(error, BatchRefusedError) and len(coming) > 1:
                for one in coming:  # one of them is impossible: find it, so that it fails alone
                    self._store([one])
                return
            for one in coming:
                self._abandon(one)
                _answer(one.done, _as_answer(error))

        try:
            self._database.submit(batch, lambda: self._committed(coming, batch.refused_sends), failed)
        except (DatabaseBusyError, DatabaseClosedError) as error:
            failed(error)

    def _committed(self, coming: Sequence[_Coming], refused: frozenset[int]) -> None:
        for one in coming:
            if one.entry.entry_id in refused:
                self._abandon(one)
                task = self._loop.create_task(self._compare(one))
                self._comparing.add(task)
                task.add_done_callback(self._comparing.discard)
                continue
            try:
                self._take_over(one)
            except Exception as error:  # one send's fault must not keep the others from being taken over
                _answer(one.done, error)
        self._intake.all_accepted()
        self._trim_recent()

    def _take_over(self, one: _Coming) -> None:
        entry = one.entry
        self._recent[entry.scope, entry.request_id] = (entry.fingerprint, None)
        if entry.scope != one.stream.stream_id:  # the app's stream got another id meanwhile
            entry = entry._replace(scope=one.stream.stream_id)
        self._intake.accepted(entry, one.shard, one.attempt, one.timestamp)
        _answer(one.done, False)

    def _abandon(self, one: _Coming) -> None:
        self._recent.pop((one.entry.scope, one.entry.request_id), None)
        self._room.give_back(one.stream.stream_id, len(one.entry.payload))
        self._intake.abandoned(one.attempt)

    async def _compare(self, one: _Coming) -> None:
        """Answer a send whose request id is on disk from an earlier one."""
        entry, done = one.entry, one.done
        try:
            stored = await self._database.find_request(entry.scope, entry.request_id)
            if stored is None:
                raise IpcError(ErrorCode.BUSY, "its first try is just being forgotten", retry_after_ms=200)
            await self._repeat(entry.fingerprint, stored.fingerprint, None)
        except Exception as error:  # the result's, for the server to answer
            _answer(done, error)
        else:
            _answer(done, True)

    async def _repeat(self, mark: bytes, first: bytes, done: asyncio.Future[bool] | None) -> bool:
        if mark != first:
            raise IpcError(ErrorCode.CONFLICT, "this request id was used for another message")
        if done is not None:
            await asyncio.shield(done)
        self.repeated += 1
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
            self._evict_at = now + _EVICT_EVERY_NS
            evict(now - REQUEST_MEMORY_NS)


def _as_answer(error: Exception) -> Exception:
    """Return the error for an app whose send could not be stored."""
    if isinstance(error, DatabaseBusyError):
        return IpcError(ErrorCode.BUSY, "the disk is behind", retry_after_ms=200)
    if isinstance(error, DatabaseClosedError):
        return IpcError(ErrorCode.NOT_READY, "shutting down")
    return error


def _answer(done: asyncio.Future[bool], outcome: bool | Exception) -> None:
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
        done.exception()  # its waiter may be gone: asyncio must not log it
    else:
        done.set_result(outcome)
