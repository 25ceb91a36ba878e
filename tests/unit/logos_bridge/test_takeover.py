"""Silence is measured here, by this host's clock."""

from __future__ import annotations

from logos_bridge.takeover import Takeover


def test_a_bridge_is_dead_when_its_sign_has_not_changed_for_long() -> None:
    takeover = Takeover("me", 15.0)
    takeover.sign("other", 7, 0.0)
    takeover.sign("other", 7, 10.0)  # read again, not written again
    assert takeover.alive_ones(14.9) == ["other"]
    assert takeover.suspects(14.9) == []
    assert takeover.suspects(15.0) == ["other"]
    takeover.sign("other", 8, 15.0)
    assert takeover.suspects(16.0) == []


def test_one_that_never_gave_a_sign_is_waited_for_first() -> None:
    takeover = Takeover("me", 15.0)
    assert takeover.alive("stranger", 100.0)
    assert takeover.suspects(114.0) == []
    assert takeover.suspects(115.0) == ["stranger"]


def test_one_without_sends_left_is_not_looked_for_until_it_returns() -> None:
    takeover = Takeover("me", 15.0)
    takeover.sign("other", 1, 0.0)
    takeover.cleared(takeover.suspects(20.0))
    assert takeover.suspects(30.0) == []
    takeover.sign("other", 2, 40.0)
    assert takeover.suspects(60.0) == ["other"]


def test_we_are_never_dead() -> None:
    takeover = Takeover("me", 15.0)
    takeover.sign("me", 1, 0.0)
    assert takeover.alive("me", 1_000.0)
    assert takeover.suspects(1_000.0) == []
    assert takeover.alive_ones(1.0) == []
