"""A send's state on disk and the event for its app, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ipc_schema.mapi.event_codec import pack_fields
from ipc_schema.mapi.events import AppEventKind
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import shard_topic
from mapi_proc.database import OutboxEntry, OutboxState
from mapi_proc.network import AppNetwork
from mapi_proc.send.rate import RateLimiter
from mapi_proc.send.task import SendState, SendTask
from mapi_proc.send.window_clock import WINDOWS_NOTE, WindowClock
from mapi_proc.streams import AppStream
from mapi_proc.write_batch import Turn

RATE_NOTE: Final = "rate"
"""The database's note that holds the rate limiter's count."""

_ON_DISK: Final = {
    SendState.PARKED: OutboxState.PARKED,
    SendState.ATTEMPTED: OutboxState.ATTEMPTED,
    SendState.RETRY: OutboxState.ATTEMPTED,
    SendState.PROPAGATED: OutboxState.PROPAGATED,
    SendState.SENT: OutboxState.SENT,
    SendState.UNCONFIRMED: OutboxState.UNCONFIRMED,
    SendState.FAILED: OutboxState.FAILED,
    SendState.CANCELLED: OutboxState.CANCELLED,
}


@dataclass(slots=True)
class SendCounters:
    """Sends since the start."""

    accepted: int = 0
    queued: int = 0
    attempts: int = 0
    propagated: int = 0
    sent: int = 0
    unconfirmed: int = 0
    failed: int = 0
    cancelled: int = 0


class StreamFinder(Protocol):
    """Finds the app's stream that a send belongs to; None if the app is gone."""

    def __call__(self, stream_id: bytes, /) -> AppStream | None: ...


class OutboxRecord:
    """Implements `SendRecord` on the turn's batch and the apps' streams."""

    def __init__(
        self,
        turn: Turn,
        network: Callable[[], AppNetwork],
        find_stream: StreamFinder,
        limiter: RateLimiter,
        now_ns: Callable[[], int],
        windows: WindowClock,
    ) -> None:
        self._turn = turn
        self._network = network
        self._find_stream = find_stream
        self._limiter = limiter
        self._now_ns = now_ns
        self._windows = windows
        self.counters = SendCounters()

    async def attempting(self, tasks: Sequence[SendTask]) -> None:
        """Fix timestamps and hashes, and wait until they are on disk."""
        network, batch, first_attempt = self._network(), self._turn.batch, self._windows.now()
        for task in tasks:
            task.timestamp = task.timestamp or self._now_ns()
            message = WakuMessage(task.payload, task.content_topic, timestamp=task.timestamp, meta=task.meta)
            task.message_hash = hash_of(network, task.shard, message)
            batch.change_send(
                task.entry_id,
                OutboxState.ATTEMPTED,
                attempts=1,
                timestamp=task.timestamp,
                message_hash=task.message_hash,
                first_attempt=first_attempt,
                propagated=0,
            )
        if self._limiter.limited:
            batch.note(RATE_NOTE, self._limiter.note())
        await self._turn.stored()  # one commit for all sends attempted in this turn

    def changed(self, task: SendTask) -> None:
        """Write the state."""
        self._turn.batch.change_send(
            task.entry_id,
            _ON_DISK[task.state],
            attempts=task.attempts,
            timestamp=task.timestamp,
            message_hash=task.message_hash,
            first_attempt=self._windows.label(task.first_attempt),
            propagated=int(task.state is SendState.PROPAGATED),
        )

    def keep_windows(self) -> None:
        """Write what a restart needs to go on with all windows."""
        self._turn.batch.note(WINDOWS_NOTE, self._windows.note())

    def queued(self, task: SendTask) -> None:
        """Notify the app: the rate limit holds the send back."""
        self.counters.queued += 1
        self._notify(task, AppEventKind.MESSAGE_QUEUED)

    def propagated(self, task: SendTask) -> None:
        """Write it and notify the app."""
        self.counters.propagated += 1
        if not task.state.final:
            if task.attempts == 1:
                self._turn.batch.propagate_send(task.entry_id)
            else:
                self.changed(task)
        self._notify(task, AppEventKind.MESSAGE_PROPAGATED, task.message_hash)

    def finished(self, task: SendTask) -> None:
        """Write it and notify the app."""
        state, now = _ON_DISK[task.state], self._now_ns()
        self._turn.batch.finish_send(task.entry_id, state, now, task.error, task.attempts)
        match task.state:
            case SendState.SENT:
                self.counters.sent += 1
                self._notify(task, AppEventKind.MESSAGE_SENT, task.message_hash)
            case SendState.UNCONFIRMED:
                self.counters.unconfirmed += 1
                self._notify(task, AppEventKind.MESSAGE_UNCONFIRMED, task.message_hash, task.error)
            case SendState.CANCELLED:
                self.counters.cancelled += 1
                self._notify(task, AppEventKind.MESSAGE_CANCELLED)
            case _:
                self.counters.failed += 1
                self._notify(task, AppEventKind.MESSAGE_ERROR, task.message_hash or None, task.error)

    def _notify(self, task: SendTask, kind: AppEventKind, *fields: object) -> None:
        stream = self._find_stream(task.scope)
        if stream is not None:
            packed = pack_fields(task.request_id, *fields)
            stream.append(kind, self._now_ns(), packed, b"", self._turn.batch)


def hash_of(network: AppNetwork, shard: int, message: WakuMessage) -> bytes:
    return message_hash(shard_topic(network.info.cluster, shard), message)


def task_of(entry: OutboxEntry, shard: int) -> SendTask:
    """Rebuild the send from its outbox row."""
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
        state=SendState.PROPAGATED if entry.state is OutboxState.PROPAGATED else SendState.PARKED,
        timestamp=entry.timestamp,
        message_hash=entry.message_hash,
        attempts=entry.attempts,
    )
