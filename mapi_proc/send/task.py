"""The life of one accepted send as a pure state machine: (task, event, now) -> new state and notification.

    parked ──attempt──> attempted ──published──> propagated ──found in a store──> sent
      │                   │  ^                     │    │
      │      no peers,    │  │ next round, or as   │    └─window over, or not asked─> unconfirmed
      │   unknown outcome │  │ soon as peers come  │
      │                   v  │                     └─missing and young─> published again
      │                  retry ──window over──> failed
      └─cancel─> cancelled           attempted ──refused──> failed

Timestamp and message hash are fixed on the first attempt and never change: a retry is the same message. An
unknown outcome (the kernel died during the request) counts as transmitted, so every attempt after the first
is forced past the kernel's seen cache. The window counts the time that MAPI has run since the first attempt;
a send that was never attempted (no kernel, no rate budget) waits indefinitely.

Stores accept a message only while its timestamp is young (13/WAKU2-STORE: 20 s), so publishing again for
their sake stops at `REPUBLISH_AGE_NS`, a second before that; queries continue until the window ends. Age is
measured by the wall clock here, as the stores do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from ipc_schema.backoff import retry_delay

SEND_WINDOW: Final = 60.0
"""Seconds from the first attempt within which a send must propagate and be confirmed (nwaku:
MaxTimeInCache).
"""
ARCHIVE_TIME: Final = 3.0
"""Seconds before the first store query for a message, and between two rounds (nwaku: ArchiveTime)."""
REPUBLISH_AGE_NS: Final = 19_000_000_000
WINDOW_ERROR: Final = "Unable to send within retry time window"
NOT_CONFIRMED: Final = "not confirmed by a store within the send window"
RELIABILITY_OFF: Final = "reliability is off"
EPHEMERAL: Final = "ephemeral messages are not stored"
CROWDED_OUT: Final = "not confirmed by a store before too many later sends waited for one"
RATE_LIMITED: Final = "held back by the rate limit until a later epoch"
SEEN: Final = "seen by the relay before, sent to no peer"
NOT_STORED: Final = "no store has it"
BACKOFF_START: Final = 1.0
BACKOFF_CAP: Final = 5.0
_CHECK_CAP: Final = 12.0
_MAX_CAUSE: Final = 500


class SendState(Enum):
    """State of a send; see the diagram above."""

    PARKED = "parked"
    ATTEMPTED = "attempted"
    RETRY = "retry"
    PROPAGATED = "propagated"
    SENT = "sent"
    UNCONFIRMED = "unconfirmed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL: Final = frozenset({SendState.SENT, SendState.UNCONFIRMED, SendState.FAILED, SendState.CANCELLED})


class Published(NamedTuple):
    """Sent to `peers` peers; `duplicate`: the bytes had been seen and nothing was sent."""

    peers: int
    duplicate: bool = False


class NoPeers(NamedTuple):
    """Valid, but there is no peer to send it to now; `text` says what is missing."""

    text: str = "no peers"


class Refused(NamedTuple):
    """A permanent failure: retrying cannot help."""

    text: str


class Unknown(NamedTuple):
    """No answer, or one that does not settle it: the message may be out."""

    text: str


Outcome = Published | NoPeers | Refused | Unknown


@dataclass(slots=True)
class SendTask:
    """One accepted send."""

    request_id: bytes
    scope: bytes
    """Stream id of the app that it belongs to: request ids are unique within it."""
    content_topic: str
    shard: int
    payload: bytes
    meta: bytes
    ephemeral: bool
    entry_id: int = 0
    """Its row in the database."""
    accepted_ns: int = 0
    state: SendState = SendState.PARKED
    timestamp: int = 0
    """ns; 0 until the first attempt, unless the app fixed it."""
    message_hash: bytes = b""
    attempts: int = 0
    first_attempt: float = 0.0
    """On MAPI's running clock (seconds); a restart continues it from the time already used."""
    next_attempt: float = 0.0
    transmitted: bool = False
    """True if it was published, or may have been."""
    propagated_at: float = 0.0
    """On the running clock; 0 until then."""
    checks: int = 0
    """Number of store queries that did not find it."""
    cause: str = ""
    """Why the last attempt failed, or why no store has confirmed it yet."""
    error: str = ""
    """Why it failed or stayed unconfirmed."""


Attempt: TypeAlias = tuple[SendTask, bool]
"""A send that is attempted, and whether it must be published past the relay's seen cache."""
Concluded: TypeAlias = Callable[[SendTask, Outcome], None]
"""Takes the outcome of an attempt."""


def is_over(task: SendTask) -> bool:
    return task.state.final


def backoff(attempts: int, jitter: float) -> float:
    """Return the seconds to wait after the n-th attempt; `jitter` in 0..1 varies it by up to a fifth."""
    return retry_delay(attempts, BACKOFF_START, 1.5, BACKOFF_CAP) * (0.9 + 0.2 * jitter)


def attempt(task: SendTask, now: float) -> bool:
    """Begin an attempt. Return True if it must be forced past the seen cache."""
    task.attempts += 1
    if task.attempts == 1:
        task.first_attempt = now
    # A send that is published again for a store stays PROPAGATED: to its app it has left already.
    if task.state is not SendState.PROPAGATED:
        task.state = SendState.ATTEMPTED
    return task.attempts > 1


def conclude(
    task: SendTask,
    outcome: Outcome,
    now: float,
    jitter: float,
    *,
    reliability: bool,
    window: float = SEND_WINDOW,
) -> bool:
    """Apply the attempt's outcome. Return True if it has propagated now, for the first time.

    A send published again for a store's sake has propagated before: no outcome is a failure any more.
    """
    if task.state is SendState.PROPAGATED:
        return False
    task.cause = cause_of(outcome)
    match outcome:
        case Published(peers=peers) if peers > 0:
            task.state = SendState.PROPAGATED
            task.transmitted = True
            task.propagated_at = now
            if not reliability or task.ephemeral:
                task.state = SendState.UNCONFIRMED
                task.error = EPHEMERAL if task.ephemeral else RELIABILITY_OFF
            return True
        case Published():
            # A duplicate sent to no peer: retry, forced. Transmitted, since some peer had these bytes.
            task.transmitted = True
            task.state = SendState.RETRY
            task.next_attempt = now if task.attempts == 1 else now + backoff(task.attempts, jitter)
        case Refused(text=text):
            task.state = SendState.FAILED
            task.error = text
        # Unknown may have reached peers: it can no longer be cancelled or reported as never sent.
        case NoPeers() | Unknown():
            task.transmitted = task.transmitted or isinstance(outcome, Unknown)
            task.state = SendState.RETRY
            task.next_attempt = now + backoff(task.attempts, jitter)
    if task.state is SendState.RETRY:
        expire(task, now, window)
    return False


def expire(task: SendTask, now: float, window: float = SEND_WINDOW) -> bool:
    """End a task whose window is over. Return True if it ended now."""
    if now - task.first_attempt < window:
        return False
    if task.state is SendState.RETRY:
        task.state = SendState.FAILED
        task.error = _with_cause(WINDOW_ERROR, task)
        return True
    if task.state is SendState.PROPAGATED:
        task.state = SendState.UNCONFIRMED
        task.error = _with_cause(NOT_CONFIRMED, task)
        return True
    return False


def give_up(task: SendTask) -> None:
    """End a propagated send before its window is over: too many others await confirmation too."""
    task.state = SendState.UNCONFIRMED
    task.error = _with_cause(CROWDED_OUT, task)


def cause_of(outcome: Outcome) -> str:
    """Return why an attempt did not get the message out; empty if it did."""
    if isinstance(outcome, Published):
        return "" if outcome.peers else SEEN
    return outcome.text[:_MAX_CAUSE] or "no peers"


def _with_cause(error: str, task: SendTask) -> str:
    return f"{error}; last: {task.cause}" if task.cause else error


def next_check(task: SendTask, now: float) -> float:
    """Return when to query a store next: not before `ARCHIVE_TIME`, then less and less often."""
    if task.checks == 0:
        return max(task.propagated_at + ARCHIVE_TIME, now)
    return now + retry_delay(task.checks, ARCHIVE_TIME, 1.5, _CHECK_CAP)


def judge(task: SendTask, found: bool, now_ns: int) -> bool:
    """Apply a store's answer.

    Return True to publish again: it is missing there and still young enough to be accepted.
    """
    if found:
        task.state = SendState.SENT
        return False
    task.checks += 1
    task.cause = NOT_STORED
    # nwaku's archive refuses timestamps more than 20 s off (MaxMessageTimestampVariance): later copies are
    # futile.
    return now_ns - task.timestamp < REPUBLISH_AGE_NS


def cancel(task: SendTask) -> bool:
    """Cancel it, possible only before the first attempt. Return True if it is cancelled now."""
    # After the first attempt the message may be out, and no one can take it back.
    if task.state is not SendState.PARKED or task.attempts:
        return False
    task.state = SendState.CANCELLED
    return True
