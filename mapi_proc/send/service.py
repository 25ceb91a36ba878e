"""Sending: from an app's request to its final event (messaging-api; SPEC.md, 4.2 and 4.3).

SendService ── Acceptance ──> SendLedger <── SendLoop ── ConfirmLoop
               (on disk)      (owner)  └──> OutboxRecord (disk, the app's stream)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from ipc_schema.errors import IpcError
from ipc_schema.mapi.methods import MAX_PENDING, PendingReply, PendingSend, SendRequest
from ipc_schema.message import WakuMessage
from mapi_proc.database import Database, OutboxEntry, Snapshot
from mapi_proc.network import AppNetwork
from mapi_proc.send.acceptance import Acceptance, FirstAttempt, fingerprint
from mapi_proc.send.confirm import Presence
from mapi_proc.send.ledger import SendLedger
from mapi_proc.send.loop import SendLoop
from mapi_proc.send.processors import Chain
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.record import RATE_NOTE, OutboxRecord, SendCounters, StreamFinder, hash_of, task_of
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import Attempt, Concluded, Outcome, Refused, SendState, SendTask
from mapi_proc.send.window_clock import WINDOWS_NOTE, WindowClock
from mapi_proc.streams import AppStream
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)

DAMAGED: str = "its stored copy is damaged"
_STALE_NS: Final = 2_000_000_000
"""A message that took so long to the disk gets a later timestamp: stores take none that is old."""


class Ways(NamedTuple):
    """The paths to the network, and the stores that confirm."""

    chain: Chain
    presence: Presence


class SendService:
    """All sends of all apps."""

    def __init__(
        self,
        database: Database,
        turn: Turn,
        network: Callable[[], AppNetwork],
        find_stream: StreamFinder,
        ways: Ways,
        settings: SendSettings,
        timing: Timing,
        snapshot: Snapshot,
    ) -> None:
        """`snapshot`: sends accepted before a restart, resumed once the network is known (`adopt`)."""
        self._database = database
        self._turn = turn
        self._network = network
        self._timing = timing
        self._chain = ways.chain
        self.limiter = RateLimiter(settings.rate_limit)
        self.limiter.load(snapshot.notes.get(RATE_NOTE, b""))
        self._saved = snapshot.outbox
        labels = (entry.first_attempt for entry in snapshot.outbox)
        self._windows = WindowClock(timing.clock, snapshot.notes.get(WINDOWS_NOTE, b""), labels)
        self._record = OutboxRecord(turn, network, find_stream, self.limiter, timing.wall_ns, self._windows)
        self.ledger = SendLedger(self._record, settings, timing)
        self.loop = SendLoop(self.ledger, self._publish, ways.presence, self.limiter, settings, timing)
        self.acceptance = Acceptance(
            database,
            network,
            now_ns=timing.steady_ns,
            wall_ns=timing.wall_ns,
            room=self.ledger.room,
            intake=self,
            next_entry_id=snapshot.next_entry_id,
        )

    @property
    def counters(self) -> SendCounters:
        return self._record.counters

    def check(self, request: SendRequest, payload: bytes) -> int:
        """Refuse what can be refused at once. Return the shard. Raises IpcError."""
        return self.acceptance.check(request, payload)

    def accept(self, stream: AppStream, request: SendRequest, payload: bytes, shard: int) -> Awaitable[bool]:
        """Accept a checked send. The result, once it is on disk, is whether it is a repeat."""
        return self.acceptance.accept(stream, request, payload, shard)

    # -- for the acceptance (`SendIntake`) -------------------------------------------------------------------

    def plan(self, request: SendRequest, payload: bytes, shard: int) -> FirstAttempt | None:
        """See `SendIntake`."""
        if not self.loop.reserve():
            return None
        timestamp = request.timestamp or self._timing.wall_ns()
        message = WakuMessage(payload, request.content_topic, 0, timestamp, request.meta)
        return FirstAttempt(timestamp, hash_of(self._network(), shard, message), self._windows.now())

    def accepted(self, entry: OutboxEntry, shard: int, attempt: FirstAttempt | None, timestamp: int) -> None:
        """See `SendIntake`."""
        self.counters.accepted += 1
        begins = (
            attempt is not None
            and self.loop.ready
            and (timestamp != 0 or abs(self._timing.wall_ns() - attempt.timestamp) < _STALE_NS)
        )
        task = task_of(entry, shard)
        task.attempts = 0  # the row counts one that is about to be made
        if not begins:
            task.timestamp, task.message_hash = timestamp, b""
        try:
            self.ledger.accept(task)
        except BaseException:
            self.abandoned(attempt)  # or its place would be taken for ever
            raise
        if begins:
            self.loop.begin_reserved(task)
            return
        self.abandoned(attempt)
        if attempt is not None and self.loop.runs:  # afterwards the database is being closed
            self._record.changed(task)  # its row says that it was attempted: a restart would end its window
        self.loop.accepted(task)

    def all_accepted(self) -> None:
        """See `SendIntake`."""
        self.loop.launch()

    def abandoned(self, attempt: FirstAttempt | None) -> None:
        """See `SendIntake`."""
        if attempt is not None:
            self.loop.release()

    # --------------------------------------------------------------------------------------------------------

    def cancel(self, stream: AppStream, request_id: bytes) -> bool:
        """Cancel a send before its first attempt; `message_cancelled` follows.

        Return False if it is too late or the id is unknown.
        """
        return self.ledger.cancel(stream.stream_id, request_id)

    def pending(self, stream: AppStream) -> list[SendTask]:
        """List the app's sends that are not final, oldest first."""
        return [task for task in self.ledger if task.scope == stream.stream_id]

    async def find(self, stream: AppStream, request_id: bytes) -> PendingSend | None:
        """Return the app's send of this id, final or not; None if it is unknown, or forgotten after a day.

        Raises DatabaseError.
        """
        task = self.ledger.find(stream.stream_id, request_id)
        if task is None:
            await self._turn.stored()  # it may have ended in this turn
            entry = await self._database.find_request(stream.stream_id, request_id)
            if entry is not None and not entry.state.final:
                await self._turn.stored()  # it is committed, but perhaps not synced: not accepted yet
            return None if entry is None else _stored_send(entry)
        return _pending_send(task)

    def adopt(self, network: AppNetwork) -> None:
        """Take the network; the first call resumes the sends accepted before the restart."""
        saved, self._saved = self._saved, []
        for entry in saved:
            task = task_of(entry, 0)
            trouble = _trouble(entry)
            try:
                task.shard = network.shard_of_checked(entry.content_topic)
            except IpcError as error:
                trouble = trouble or error.message
            self.ledger.resume(task, self._windows.used(entry.first_attempt))
            if trouble:
                log.warning("send %s is given up: %s", entry.request_id.hex(), trouble)
                self.ledger.refuse(task, trouble)
            else:
                self.loop.accepted(task, resumed=True)

    def keep_windows(self) -> None:
        """Write how much of their windows the sends have used: a restart must not grant them whole new ones.
        Call it every few seconds."""
        if len(self.ledger):
            self._record.keep_windows()

    async def publish_aside(self, task: SendTask, force: bool) -> Outcome:
        """One round through the processors for a message that has no place in the outbox."""
        self.counters.attempts += 1
        too_large = self.acceptance.too_large(task)
        return Refused(too_large) if too_large else await self._chain.attempt(task, force)

    async def _publish(self, attempts: Sequence[Attempt], concluded: Concluded) -> None:
        """See `Publish`."""
        self.counters.attempts += len(attempts)
        possible: list[Attempt] = []
        for attempt in attempts:
            if too_large := self.acceptance.too_large(attempt[0]):
                concluded(attempt[0], Refused(too_large))
            else:
                possible.append(attempt)
        await self._chain.attempt_all(possible, concluded)


def _trouble(entry: OutboxEntry) -> str:
    """Return why a stored send must not be published; empty if it may."""
    request = SendRequest(
        request_id=entry.request_id,
        content_topic=entry.content_topic,
        meta=entry.meta,
        ephemeral=entry.ephemeral,
    )
    # A timestamp belongs to the request only if the app fixed it, which the row does not say.
    timed = replace(request, timestamp=entry.timestamp or None)
    marks = (fingerprint(request, entry.payload), fingerprint(timed, entry.payload))
    return "" if entry.fingerprint in marks else DAMAGED


def pending_reply(tasks: Sequence[SendTask]) -> PendingReply:
    """Build the reply of the method `pending`."""
    states = {state.value: 0 for state in SendState if not state.final}
    for task in tasks:
        states[task.state.value] += 1
    return PendingReply(
        sends=tuple(_pending_send(task) for task in tasks[:MAX_PENDING]),
        total=len(tasks),
        states=states,
    )


def _pending_send(task: SendTask) -> PendingSend:
    return PendingSend(
        request_id=task.request_id,
        content_topic=task.content_topic,
        state=task.state.value,
        accepted_ns=task.accepted_ns,
        attempts=task.attempts,
        message_hash=task.message_hash or None,
        timestamp=task.timestamp or None,
        cause=task.cause,
    )


def _stored_send(entry: OutboxEntry) -> PendingSend:
    return PendingSend(
        request_id=entry.request_id,
        content_topic=entry.content_topic,
        state=entry.state.name.lower(),  # as in `SendState`
        accepted_ns=entry.accepted,
        attempts=entry.attempts,
        message_hash=entry.message_hash or None,
        timestamp=entry.timestamp or None,
        cause=entry.detail,
    )
