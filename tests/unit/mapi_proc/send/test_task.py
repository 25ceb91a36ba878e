"""The send state machine, under a fake clock."""

from __future__ import annotations

import pytest

from mapi_proc.send.task import (
    BACKOFF_CAP,
    SEND_WINDOW,
    WINDOW_ERROR,
    NoPeers,
    Outcome,
    Published,
    Refused,
    SendTask,
    State,
    Unknown,
    attempt,
    backoff,
    conclude,
    expire,
)


def task() -> SendTask:
    return SendTask(b"r" * 16, b"app", "/a/1/b/proto", 0, b"hello", b"", False)


def test_published_to_a_peer_is_propagated() -> None:
    sent = task()
    assert attempt(sent, 10.0) is False
    assert conclude(sent, Published(3, False), 10.1, 0.5) is State.PROPAGATED
    assert sent.state.final


@pytest.mark.parametrize("outcome", [NoPeers(), Unknown("kernel restarted")])
def test_no_peers_and_unknown_outcomes_are_retried_and_forced(outcome: Outcome) -> None:
    sent = task()
    attempt(sent, 10.0)
    assert conclude(sent, outcome, 10.1, 0.5) is State.RETRY
    assert sent.next_attempt > 10.1
    assert attempt(sent, sent.next_attempt) is True


def test_a_duplicate_on_the_first_attempt_is_forced_out_at_once() -> None:
    sent = task()
    attempt(sent, 10.0)
    assert conclude(sent, Published(0, True), 10.1, 0.5) is State.RETRY
    assert sent.next_attempt == 10.1


def test_refused_fails_with_the_text() -> None:
    sent = task()
    attempt(sent, 10.0)
    assert conclude(sent, Refused("bad topic"), 10.1, 0.5) is State.FAILED
    assert sent.error == "bad topic"


def test_the_window_counts_from_the_first_attempt_and_fails_with_the_known_text() -> None:
    sent = task()
    now = 1000.0
    attempts = 0
    while sent.state is not State.FAILED:
        attempt(sent, now)
        attempts += 1
        conclude(sent, NoPeers(), now, 1.0)
        now = max(now, sent.next_attempt)
        assert attempts < 100
    assert sent.error == WINDOW_ERROR
    assert SEND_WINDOW <= now - 1000.0 <= SEND_WINDOW + 2 * BACKOFF_CAP
    assert attempts > 10


def test_a_parked_send_never_ages_out() -> None:
    sent = task()
    assert not expire(sent, 1e9)
    assert sent.state is State.PARKED


def test_propagation_after_the_window_still_counts() -> None:
    sent = task()
    attempt(sent, 0.0)
    conclude(sent, NoPeers(), 0.0, 0.0)
    attempt(sent, 59.0)
    assert conclude(sent, Published(1, False), 61.0, 0.0) is State.PROPAGATED


def test_backoff_grows_to_its_cap() -> None:
    waits = [backoff(n, 0.5) for n in range(1, 10)]
    assert waits == sorted(waits)
    assert waits[0] == 1.0
    assert waits[-1] == BACKOFF_CAP
