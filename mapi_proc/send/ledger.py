"""The single owner of each send's life, from acceptance to its one final event.

The loops (`loop`: attempts, `confirm`: store queries) decide when something happens. The effect on a send
is decided by the state machine (`task`) and applied here: the state change, its record on disk, the event
for the app, the room it holds, and the last cause of failure.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from mapi_proc.send import task as machine
from mapi_proc.send.fairness import Room
from mapi_proc.send.settings import SendSettings, Timing
from mapi_proc.send.task import Attempt, Outcome, SendState, SendTask

log = logging.getLogger(__name__)


class SendRecord(Protocol):
    """Persists a send's state and appends the app's event, each time in one transaction."""

    async def attempting(self, tasks: Sequence[SendTask]) -> None:
        """On their first attempt: fix timestamp and message hash, and return when they are on disk."""

    def changed(self, task: SendTask) -> None:
        """Write the state of an unfinished send."""

    def queued(self, task: SendTask) -> None:
        """Notify that the rate limit holds it back."""

    def propagated(self, task: SendTask) -> None:
        """Write and notify that it has propagated, for the first time."""

    def finished(self, task: SendTask) -> None:
        """Write and notify the final state."""


class SendLedger:
    """All sends that are accepted and not final."""

    def __init__(self, record: SendRecord, settings: SendSettings, timing: Timing) -> None:
        self._record = record
        self._settings = settings
        self._timing = timing
        self._tasks: dict[tuple[bytes, bytes], SendTask] = {}
        self._propagated: dict[int, SendTask] = {}
        """By row, in order of propagation; `_payloads`: those that may be published again."""
        self._payloads: dict[int, SendTask] = {}
        self._propagated_bytes = 0
        self._states: Counter[SendState] = Counter()
        self.room = Room(settings.max_tasks, settings.max_bytes)
        self.last_cause = ""
        """Cause of the latest failed attempt of any send."""

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[SendTask]:
        """Iterate over the sends that are not final, oldest first."""
        return iter(tuple(self._tasks.values()))

    def find(self, scope: bytes, request_id: bytes) -> SendTask | None:
        """Return the send of this request id if it is not final."""
        return self._tasks.get((scope, request_id))

    @property
    def pending_bytes(self) -> int:
        """Payload bytes of all sends that are not final."""
        return self.room.size + self._propagated_bytes

    @property
    def states(self) -> dict[str, int]:
        open_states = (state for state in SendState if not state.final)
        return {state.value: self._states[state] for state in open_states}

    # -- its life ----------------------------------------------------------------------------------------

    def accept(self, task: SendTask) -> None:
        """Take over a send that is on disk, with the room that `Acceptance` has reserved for it."""
        self._tasks[task.scope, task.request_id] = task
        self._states[task.state] += 1

    def resume(self, task: SendTask, window_used: float) -> None:
        """Take over a send of an earlier run.

        An attempt that was in flight at its end has an unknown outcome.
        """
        if task.attempts:
            task.first_attempt = self._timing.clock() - window_used
            task.transmitted = True
            if task.state is SendState.PROPAGATED:
                task.propagated_at = task.first_attempt
            else:
                task.state, task.next_attempt = SendState.RETRY, 0.0
        self.accept(task)
        if task.state is SendState.PROPAGATED:
            self._hold_propagated(task)
        else:
            self.room.take(task.scope, len(task.payload))

    def renamed(self, old: bytes, new: bytes) -> None:
        """Follow an app whose stream got another id."""
        for task in self._tasks.values():
            if task.scope == old:
                task.scope = new
        self._tasks = {(task.scope, task.request_id): task for task in self._tasks.values()}
        self.room.renamed(old, new)

    def cancel(self, scope: bytes, request_id: bytes) -> bool:
        """Cancel a send before its first attempt. Return False if it is too late or there is no such send."""
        task = self.find(scope, request_id)
        if task is None:
            return False
        before = task.state
        if not machine.cancel(task):
            return False
        self._moved(task, before)
        return True

    def queued(self, task: SendTask) -> None:
        """Notify the app that the rate limit holds a send back until a later epoch."""
        task.cause = machine.RATE_LIMITED
        self._record.queued(task)

    def begin(self, task: SendTask) -> None:
        """Mark the start of an attempt: from here on the send cannot be cancelled."""
        if task.state is SendState.PARKED:
            task.state = SendState.ATTEMPTED
            self._moved(task, SendState.PARKED)

    async def fix(self, tasks: Sequence[SendTask]) -> None:
        """Fix timestamps and hashes, on disk: before the first attempt, unless the sends were accepted with
        it."""
        await self._record.attempting(tasks)

    def attempt(self, tasks: Sequence[SendTask]) -> list[Attempt]:
        """Count an attempt of each."""
        now = self._timing.clock()
        attempts: list[Attempt] = []
        for task in tasks:
            before = task.state
            attempts.append((task, machine.attempt(task, now)))
            self._moved(task, before)
        return attempts

    def conclude(self, task: SendTask, outcome: Outcome) -> None:
        """Apply the outcome of an attempt."""
        if task.state.final:
            return  # a store confirmed it while it was being published again
        now, before = self._timing.clock(), task.state
        first = machine.conclude(
            task,
            outcome,
            now,
            self._timing.jitter(),
            reliability=self._settings.reliability,
            window=self._settings.window,
        )
        cause = machine.cause_of(outcome)
        if cause:
            self.last_cause = cause
        log.debug("send %s, attempt %d: %s", task.request_id.hex(), task.attempts, cause or "propagated")
        if first:
            self._record.propagated(task)
        elif task.state is SendState.RETRY:
            self._record.changed(task)
        self._moved(task, before)

    def expire(self, task: SendTask) -> bool:
        """End the send if its window is over. Return True if it ended now."""
        before = task.state
        ended = machine.expire(task, self._timing.clock(), self._settings.window)
        self._moved(task, before)
        return ended

    def judge(self, task: SendTask, found: bool) -> bool:
        """Apply a store's answer. Return True if it must be published again."""
        before = task.state
        again = machine.judge(task, found, self._timing.wall_ns())
        self._moved(task, before)
        return again

    def unasked(self, task: SendTask, cause: str) -> None:
        """Record that no store could be queried for it."""
        task.cause = cause

    def aged(self, task: SendTask) -> None:
        """Free the payload: the send will not be published again."""
        if self._payloads.pop(task.entry_id, None) is not None:
            self._propagated_bytes -= len(task.payload)
            task.payload = b""

    def refuse(self, task: SendTask, text: str) -> None:
        """End a send that cannot be resumed."""
        before, task.state, task.error = task.state, SendState.FAILED, text
        self._moved(task, before)

    # -- what follows from a change of state ---------------------------------------------------------------

    def _moved(self, task: SendTask, before: SendState) -> None:
        after = task.state
        if after is before:
            return
        self._states[before] -= 1
        if not after.final:
            self._states[after] += 1
            if after is SendState.PROPAGATED:
                self.room.give_back(task.scope, len(task.payload))
                self._hold_propagated(task)
            return
        del self._tasks[task.scope, task.request_id]
        if before is SendState.PROPAGATED:
            del self._propagated[task.entry_id]
            if self._payloads.pop(task.entry_id, None) is not None:
                self._propagated_bytes -= len(task.payload)
        else:
            self.room.give_back(task.scope, len(task.payload))
        self._record.finished(task)

    def _hold_propagated(self, task: SendTask) -> None:
        """Bound the sends that wait for a store, so that they do not block new ones.

        Beyond the bounds the oldest payloads go first (those are not published again), then the oldest
        sends end unconfirmed.
        """
        self._propagated[task.entry_id] = self._payloads[task.entry_id] = task
        self._propagated_bytes += len(task.payload)
        while self._propagated_bytes > self._settings.max_bytes:
            self.aged(next(iter(self._payloads.values())))
        while len(self._propagated) > self._settings.max_tasks:
            oldest = next(iter(self._propagated.values()))
            machine.give_up(oldest)
            self._moved(oldest, SendState.PROPAGATED)
