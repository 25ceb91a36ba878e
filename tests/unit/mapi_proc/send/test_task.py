"""The send state machine, under a fake clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapi_proc.send.task import (
    ARCHIVE_TIME,
    BACKOFF_CAP,
    EPHEMERAL,
    NOT_CONFIRMED,
    RELIABILITY_OFF,
    REPUBLISH_AGE_NS,
    SEND_WINDOW,
    WINDOW_ERROR,
    NoPeers,
    Outcome,
    Published,
    Refused,
    SendState,
    SendTask,
    Unknown,
    attempt,
    backoff,
    cancel,
    conclude,
    expire,
    is_over,
    judge,
    next_check,
)


def task(*, ephemeral: bool = False) -> SendTask:
    return SendTask(b"r" * 16, b"app", "/a/1/b/proto", 0, b"hello", b"", ephemeral)


def tried(outcome: Outcome, *, reliability: bool = True, now: float = 10.0) -> SendTask:
    sent = task()
    attempt(sent, now)
    conclude(sent, outcome, now, 0.5, reliability=reliability)
    return sent


def test_published_to_a_peer_has_propagated_and_waits_for_a_store() -> None:
    sent = task()
    assert attempt(sent, 10.0) is False
    assert conclude(sent, Published(3), 10.1, 0.5, reliability=True) is True
    assert sent.state is SendState.PROPAGATED
    assert next_check(sent, 10.1) == 10.1 + ARCHIVE_TIME


def test_without_reliability_or_ephemeral_it_is_final_and_says_why() -> None:
    off = tried(Published(3), reliability=False)
    assert (off.state, off.error) == (SendState.UNCONFIRMED, RELIABILITY_OFF)
    passing = task(ephemeral=True)
    attempt(passing, 1.0)
    assert conclude(passing, Published(1), 1.0, 0.5, reliability=True)
    assert (passing.state, passing.error) == (SendState.UNCONFIRMED, EPHEMERAL)


@pytest.mark.parametrize(
    ("outcome", "transmitted"), [(NoPeers(), False), (Unknown("kernel restarted"), True)]
)
def test_no_peers_and_unknown_outcomes_are_retried_and_forced(outcome: Outcome, transmitted: bool) -> None:
    sent = tried(outcome)
    assert sent.state is SendState.RETRY
    assert sent.next_attempt > 10.0
    assert sent.transmitted is transmitted
    assert attempt(sent, sent.next_attempt) is True


def test_a_duplicate_on_the_first_attempt_is_forced_out_at_once() -> None:
    sent = tried(Published(0, duplicate=True))
    assert sent.state is SendState.RETRY
    assert sent.next_attempt == 10.0


def test_refused_fails_with_the_text() -> None:
    sent = tried(Refused("bad topic"))
    assert (sent.state, sent.error) == (SendState.FAILED, "bad topic")


def test_the_window_counts_from_the_first_attempt_and_fails_with_the_known_text() -> None:
    sent = task()
    now = 1000.0
    attempts = 0
    while not is_over(sent):
        attempt(sent, now)
        attempts += 1
        conclude(sent, NoPeers(), now, 1.0, reliability=True)
        now = max(now, sent.next_attempt)
        assert attempts < 100
    assert (sent.state, sent.error) == (SendState.FAILED, f"{WINDOW_ERROR}; last: no peers")
    assert SEND_WINDOW <= now - 1000.0 <= SEND_WINDOW + 2 * BACKOFF_CAP
    assert attempts > 10


def test_a_parked_send_never_ages_out() -> None:
    sent = task()
    assert not expire(sent, 1e9)
    assert sent.state is SendState.PARKED


def test_propagation_after_the_window_still_counts() -> None:
    sent = tried(NoPeers(), now=0.0)
    attempt(sent, 59.0)
    assert conclude(sent, Published(1), 61.0, 0.0, reliability=True)


def test_a_store_that_has_it_ends_it_as_sent() -> None:
    sent = tried(Published(1))
    assert judge(sent, True, 0) is False
    assert sent.state is SendState.SENT


def test_what_a_store_lacks_is_published_again_while_young_and_asked_for_ever_less_often() -> None:
    sent = tried(Published(1))
    sent.timestamp = 1_000
    assert judge(sent, False, 1_000 + REPUBLISH_AGE_NS - 1) is True
    first = next_check(sent, 20.0) - 20.0
    assert first == ARCHIVE_TIME
    assert judge(sent, False, 1_000 + REPUBLISH_AGE_NS) is False
    assert next_check(sent, 20.0) - 20.0 > first
    assert attempt(sent, 21.0) is True
    for outcome in (NoPeers(), Refused("seen"), Unknown("?"), Published(0, duplicate=True), Published(2)):
        assert conclude(sent, outcome, 21.0, 0.5, reliability=True) is False
        assert sent.state is SendState.PROPAGATED, "what has propagated once does not fail any more"


def test_what_no_store_confirms_within_the_window_says_so() -> None:
    sent = tried(Published(1))
    assert not expire(sent, 69.9)
    assert expire(sent, 70.0)
    assert (sent.state, sent.error) == (SendState.UNCONFIRMED, NOT_CONFIRMED)


def test_only_what_was_never_attempted_can_be_cancelled() -> None:
    sent = task()
    assert cancel(sent)
    assert sent.state is SendState.CANCELLED
    assert not cancel(sent)
    assert not cancel(tried(NoPeers()))


def test_backoff_grows_to_its_cap() -> None:
    waits = [backoff(n, 0.5) for n in range(1, 10)]
    assert waits == sorted(waits)
    assert waits[0] == 1.0
    assert waits[-1] == BACKOFF_CAP


OUTCOMES = st.sampled_from(
    [
        Published(1),
        Published(0, duplicate=True),
        NoPeers(),
        Unknown("?"),
        Refused("no"),
        "found",
        "missing",
        "wait",
    ]
)


@given(st.lists(OUTCOMES, max_size=60), st.booleans(), st.booleans())
def test_every_life_tells_propagated_at_most_once_and_ends_at_most_once(
    events: list[Outcome | str], ephemeral: bool, reliability: bool
) -> None:
    sent = task(ephemeral=ephemeral)
    now, reported, ended = 0.0, 0, 0
    for event in events:
        now += 2.0
        if is_over(sent):
            break
        if event == "wait":
            ended += expire(sent, now)
        elif isinstance(event, str):
            if sent.state is SendState.PROPAGATED:
                judge(sent, event == "found", int(now * 1e9))
        else:
            attempt(sent, now)
            reported += conclude(sent, event, now, 0.5, reliability=reliability)
    assert reported <= 1
    assert ended <= 1
    if sent.state in (SendState.SENT, SendState.UNCONFIRMED):
        assert reported == 1, "sent never before propagated"
    if sent.state is SendState.FAILED:
        assert reported == 0
