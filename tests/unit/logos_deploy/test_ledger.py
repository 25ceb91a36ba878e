"""The demonstration's count: what must not pass unnoticed."""

from __future__ import annotations

from logos_deploy.demo.ledger import Entry, Ledger

APPS = ("alice", "bob")


def one_message() -> tuple[Ledger, Entry]:
    ledger = Ledger(APPS)
    entry = ledger.sending("alice", b"hello", b"r" * 16, 10.0)
    entry.accepted_at = 10.001
    ledger.propagated(b"r" * 16, 10.002)
    return ledger, entry


def test_once_by_everybody_is_right() -> None:
    ledger, entry = one_message()
    ledger.received("alice", b"hello", 10.003)
    assert not ledger.settled([entry])
    ledger.received("bob", b"hello", 10.0042)
    assert ledger.settled([entry])
    assert ledger.faults() == []
    line = ledger.time_lines([entry]).splitlines()[1].split()
    assert line == ["alice", "→", "bob", "5", "B", "1.0", "2.0", "4.2"]


def test_never_twice_and_strangers_are_faults() -> None:
    ledger, _ = one_message()
    ledger.received("bob", b"hello", 1.0)
    ledger.received("bob", b"hello", 2.0)
    ledger.received("bob", b"what?", 2.0)
    faults = "; ".join(ledger.faults())
    assert "alice received it never" in faults
    assert "bob received it 2 times" in faults
    assert "1 messages arrived that no app here sent" in faults


def test_an_error_ends_the_waiting_and_is_a_fault() -> None:
    ledger, entry = one_message()
    ledger.failed(b"r" * 16, "Unable to send within retry time window")
    assert ledger.settled([entry])
    assert "Unable to send" in ledger.faults()[0]


def test_a_message_that_did_not_propagate_is_a_fault() -> None:
    ledger = Ledger(APPS)
    ledger.sending("alice", b"hello", b"r" * 16, 10.0)
    for app in APPS:
        ledger.received(app, b"hello", 11.0)
    assert ledger.faults() == ["5 B from alice: not propagated"]
