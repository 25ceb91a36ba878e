"""The fate of one accepted send, as a pure state machine: (task, outcome, now) -> new state and what to tell.

    parked ──attempt──> attempted ──published──> propagated
                          │  ^
               no peers,  │  │ next round, or as soon as peers appear
            unknown outcome  │
                          v  │
                         retry ──window over──> failed      attempted ──refused──> failed

Timestamp and message hash are fixed on the first attempt and never change: a retry is the same message. An
unknown outcome (the kernel died under the request) counts as transmitted, so every attempt after the first is
forced out past the kernel's seen cache. The window counts time that MAPI ran since the first attempt; a send
that was never attempted (no kernel) waits without an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

__all__ = [
    "BACKOFF_CAP",
    "BACKOFF_START",
    "SEND_WINDOW",
    "WINDOW_ERROR",
    "NoPeers",
    "Outcome",
    "Published",
    "Refused",
    "SendTask",
    "State",
    "Unknown",
    "attempt",
    "backoff",
    "conclude",
    "expire",
]

SEND_WINDOW: Final = 60.0
"""Seconds from the first attempt within which a send must propagate (nwaku: MaxTimeInCache)."""
WINDOW_ERROR: Final = "Unable to send within retry time window"
BACKOFF_START: Final = 1.0
BACKOFF_CAP: Final = 5.0


class State(Enum):
    """Where a send stands; see the picture above."""

    PARKED = "parked"
    ATTEMPTED = "attempted"
    RETRY = "retry"
    PROPAGATED = "propagated"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (State.PROPAGATED, State.FAILED)


class Published(NamedTuple):
    """The kernel gave it to `peers` peers; `duplicate`: it had seen these bytes and sent nothing."""

    peers: int
    duplicate: bool


class NoPeers(NamedTuple):
    """Valid, but nobody to give it to."""


class Refused(NamedTuple):
    """Waiting cannot repair it."""

    text: str


class Unknown(NamedTuple):
    """No answer, or one that says nothing of the message: it may be out."""

    text: str


Outcome = Published | NoPeers | Refused | Unknown


@dataclass(slots=True)
class SendTask:
    """One accepted send."""

    request_id: bytes
    scope: bytes
    """Stream id of the app it belongs to: request ids are unique in it."""
    content_topic: str
    shard: int
    payload: bytes
    meta: bytes
    ephemeral: bool
    entry_id: int = 0
    """Its row in the database."""
    state: State = State.PARKED
    timestamp: int = 0
    """ns; 0 until the first attempt."""
    message_hash: bytes = b""
    attempts: int = 0
    first_attempt: float = 0.0
    """On MAPI's running clock (seconds); a restart continues it from the time already used."""
    next_attempt: float = 0.0
    error: str = ""


def backoff(attempts: int, jitter: float) -> float:
    """Seconds to wait after the n-th attempt; `jitter` in 0..1 spreads it by up to a fifth."""
    return min(BACKOFF_START * 1.5 ** max(0, attempts - 1), BACKOFF_CAP) * (0.9 + 0.2 * jitter)


def attempt(task: SendTask, now: float) -> bool:
    """Begin an attempt. True: this send must be forced past the seen cache."""
    task.attempts += 1
    if task.attempts == 1:
        task.first_attempt = now
    task.state = State.ATTEMPTED
    return task.attempts > 1


def conclude(
    task: SendTask, outcome: Outcome, now: float, jitter: float, window: float = SEND_WINDOW
) -> State:
    """The attempt's outcome. Returns the new state; a final one is told to the app once."""
    match outcome:
        case Published(peers=peers) if peers > 0:
            task.state = State.PROPAGATED
        case Published():
            task.state = State.RETRY
            task.next_attempt = now  # seen before, sent to nobody now: once more, forced
            if task.attempts > 1:
                task.next_attempt += backoff(task.attempts, jitter)
        case Refused(text=text):
            task.state = State.FAILED
            task.error = text
        case NoPeers() | Unknown():
            task.state = State.RETRY
            task.next_attempt = now + backoff(task.attempts, jitter)
    if task.state is State.RETRY:
        expire(task, now, window)
    return task.state


def expire(task: SendTask, now: float, window: float = SEND_WINDOW) -> bool:
    """Fail a task in retry whose window is over. True if it failed now."""
    if task.state is State.RETRY and now - task.first_attempt >= window:
        task.state = State.FAILED
        task.error = WINDOW_ERROR
        return True
    return False
