"""Sending: from an app's request to the fate that the app is told (messaging-api, SPEC.md 4.2 and 4.3).

Here a send's state meets the disk and the app's stream: every change and the event that tells of it are one
transaction, so that each accepted send ends in exactly one final state whatever dies in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ipc_schema.config.ratelimits import RateLimit
from ipc_schema.errors import IpcError
from ipc_schema.mapi.events import AppEventKind, pack_fields
from ipc_schema.mapi.methods import MAX_PENDING, PendingReply, PendingSend, SendRequest
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from mapi_proc.database import Database, OutboxEntry, OutboxState, Snapshot
from mapi_proc.network import Network
from mapi_proc.send.acceptance import Acceptance
from mapi_proc.send.confirm import Presence
from mapi_proc.send.loop import SendLoop
from mapi_proc.send.processors import Processor, run_chain
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.task import Outcome, SendTask, State
from mapi_proc.streams import AppStream
from mapi_proc.write_batch import Turn

__all__ = ["SendCounters", "SendService", "pending_reply"]

log = logging.getLogger(__name__)

RATE_NOTE: Final = "rate"
"""The database's note that holds the rate limiter's count."""

_KEEP_EVERY: Final = 15.0

_ON_DISK: Final = {
    State.PARKED: OutboxState.PARKED,
    State.ATTEMPTED: OutboxState.ATTEMPTED,
    State.RETRY: OutboxState.ATTEMPTED,
    State.PROPAGATED: OutboxState.PROPAGATED,
    State.SENT: OutboxState.SENT,
    State.UNCONFIRMED: OutboxState.UNCONFIRMED,
    State.FAILED: OutboxState.FAILED,
    State.CANCELLED: OutboxState.CANCELLED,
}


@dataclass(slots=True)
class SendCounters:
    """Sends since the start."""

    accepted: int = 0
    attempts: int = 0
    propagated: int = 0
    sent: int = 0
    unconfirmed: int = 0
    failed: int = 0
    cancelled: int = 0


class StreamFinder(Protocol):
    """Finds the app's stream a send belongs to; None when the app is gone."""

    def __call__(self, stream_id: bytes, /) -> AppStream | None: ...


class SendService:
    """All sends of all apps. Implements `SendStore` for its loop."""

    def __init__(
        self,
        database: Database,
        turn: Turn,
        network: Callable[[], Network],
        find_stream: StreamFinder,
        chain: Sequence[Processor],
        presence: Presence,
        *,
        clock: Callable[[], float],
        now_ns: Callable[[], int],
        steady: Callable[[], int],
        jitter: Callable[[], float],
        window: float,
        reliability: bool,
        rate_limit: RateLimit | None,
        max_tasks: int,
        max_bytes: int,
        snapshot: Snapshot,
    ) -> None:
        """`steady`: ns of the clock that dates what is kept. `snapshot`: what was accepted before a restart
        goes on when the network is known (`adopt`)."""
        self._database = database
        self._turn = turn
        self._network = network
        self._find_stream = find_stream
        self._chain = chain
        self._clock = clock
        self._now_ns = now_ns
        self.counters = SendCounters()
        self.limiter = RateLimiter(rate_limit)
        self.limiter.load(snapshot.notes.get(RATE_NOTE, b""))
        self._saved = snapshot.outbox
        self.loop = SendLoop(
            self,
            clock=clock,
            wall_ns=now_ns,
            steady_ns=steady,
            jitter=jitter,
            presence=presence,
            reliability=reliability,
            limiter=self.limiter,
            window=window,
            max_tasks=max_tasks,
            max_bytes=max_bytes,
        )
        self.acceptance = Acceptance(
            database,
            network,
            now_ns=steady,
            check_room=self.loop.check_room,
            accepted=self._accepted,
            next_entry_id=snapshot.next_entry_id,
        )

    def check(self, request: SendRequest, payload: bytes) -> int:
        """What can be refused at once, is. Returns the shard. Raises IpcError."""
        return self.acceptance.check(request, payload)

    async def accept(self, stream: AppStream, request: SendRequest, payload: bytes, shard: int) -> bool:
        """Take over a checked send; returns when it is on disk. True: it was accepted before (a repeat)."""
        return await self.acceptance.accept(stream, request, payload, shard)

    def _accepted(self, entry: OutboxEntry, shard: int) -> None:
        self.counters.accepted += 1
        self.loop.accept(_task(entry, shard))

    def cancel(self, stream: AppStream, request_id: bytes) -> bool:
        """Cancel a send that was not attempted yet; `message_cancelled` follows. False: too late,
        or unknown.
        """
        return self.loop.cancel(stream.stream_id, request_id)

    def pending(self, stream: AppStream) -> list[SendTask]:
        """The app's sends that are not final, oldest first."""
        return [task for task in self.loop.pending() if task.scope == stream.stream_id]

    def adopt(self, network: Network) -> None:
        """The network is known: go on with what was accepted before a restart."""
        saved, self._saved = self._saved, []
        for entry in saved:
            task = _task(entry, 0)
            try:
                task.shard = network.shard_of_checked(entry.content_topic)
            except IpcError as error:
                task.state, task.error = State.FAILED, error.message
                self.finished(task)
                continue
            self.loop.resume(task, entry.elapsed / 1e9)

    def keep_windows(self) -> None:
        """Now and then: write how much of their windows the waiting sends have used, so that a restart does
        not give them the whole window again.
        """
        now = self._clock()
        for task in self.loop.pending():
            if task.attempts and now - task.first_attempt - task.kept >= _KEEP_EVERY:
                self._change(task, now - task.first_attempt)

    # -- SendStore: what the loop asks for ---------------------------------------------------------------

    async def attempting(self, task: SendTask) -> None:
        """Fix timestamp and hash, and wait until they are on disk."""
        task.timestamp = self._now_ns()
        task.message_hash = message_hash(
            shard_topic(self._network().info.cluster, task.shard),
            WakuMessage(task.payload, task.content_topic, timestamp=task.timestamp, meta=task.meta),
        )
        batch = self._turn.batch
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
        if self.limiter.limited:
            batch.note(RATE_NOTE, self.limiter.note())
        await self._turn.stored()  # with all that are attempted in this turn

    async def publish(self, task: SendTask, force: bool) -> Outcome:
        """One round through the processors."""
        self.counters.attempts += 1
        return await run_chain(self._chain, task, force)

    def retrying(self, task: SendTask, window_used: float) -> None:
        """Keep how much of the window is used."""
        self._change(task, window_used)

    def _change(self, task: SendTask, window_used: float) -> None:
        task.kept = window_used
        self._turn.batch.change_send(
            task.entry_id,
            _ON_DISK[task.state],
            attempts=task.attempts,
            timestamp=task.timestamp,
            message_hash=task.message_hash,
            first_attempt=task.timestamp,
            propagated=int(task.state is State.PROPAGATED),
            elapsed=int(window_used * 1e9),
        )

    def propagated(self, task: SendTask, window_used: float) -> None:
        """It has propagated: the state, and the event, in one transaction."""
        self.counters.propagated += 1
        if not task.state.final:
            self._change(task, window_used)
        self._tell(task, AppEventKind.MESSAGE_PROPAGATED, task.message_hash)

    def finished(self, task: SendTask) -> None:
        """Final: the state, and the event in the app's stream, in one transaction."""
        self._turn.batch.finish_send(task.entry_id, _ON_DISK[task.state], self._now_ns(), task.error)
        match task.state:
            case State.SENT:
                self.counters.sent += 1
                self._tell(task, AppEventKind.MESSAGE_SENT, task.message_hash)
            case State.UNCONFIRMED:
                self.counters.unconfirmed += 1
                self._tell(task, AppEventKind.MESSAGE_UNCONFIRMED, task.message_hash, task.error)
            case State.CANCELLED:
                self.counters.cancelled += 1
                self._tell(task, AppEventKind.MESSAGE_CANCELLED)
            case _:
                self.counters.failed += 1
                self._tell(task, AppEventKind.MESSAGE_ERROR, task.message_hash or None, task.error)

    def _tell(self, task: SendTask, kind: AppEventKind, *fields: object) -> None:
        stream = self._find_stream(task.scope)
        if stream is not None:
            packed = pack_fields(task.request_id, *fields)
            stream.append(kind, self._now_ns(), packed, b"", self._turn.batch)


def pending_reply(tasks: Sequence[SendTask]) -> PendingReply:
    """The reply of the method `pending`."""
    return PendingReply(
        sends=tuple(
            PendingSend(
                request_id=task.request_id,
                content_topic=task.content_topic,
                state=task.state.value,
                accepted_ns=task.accepted_ns,
                attempts=task.attempts,
                message_hash=task.message_hash or None,
                timestamp=task.timestamp or None,
            )
            for task in tasks[:MAX_PENDING]
        ),
        total=len(tasks),
    )


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
        accepted_ns=entry.accepted,
        state=State.PROPAGATED if entry.state is OutboxState.PROPAGATED else State.PARKED,
        timestamp=entry.timestamp,
        message_hash=entry.message_hash,
        attempts=entry.attempts,
    )
