"""Delays between dials."""

from __future__ import annotations

from random import Random

from kernel_proc.peers.backoff import DialBackoff


def test_a_configured_peer_that_is_down_is_dialled_within_ten_seconds() -> None:
    backoff = DialBackoff(Random(1))
    delays = [backoff.failed() for _ in range(2000)]
    for delay, base in zip(delays, (1, 2, 4, 8, 8, 8), strict=False):
        assert 0.8 * base <= delay <= 1.2 * base
    assert max(delays) < 10


def test_a_peer_that_throws_us_out_is_left_in_peace_for_up_to_a_minute() -> None:
    backoff = DialBackoff(Random(1))
    delays = [backoff.lost(lasted=1) for _ in range(20)]
    for delay, base in zip(delays, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60), strict=False):
        assert 0.8 * base <= delay <= 1.2 * base
    assert max(delays) <= 72


def test_a_stable_connection_resets_the_back_off_a_short_one_does_not() -> None:
    backoff = DialBackoff(Random(1))
    for _ in range(5):
        backoff.failed()
    assert backoff.lost(lasted=5) > 20
    assert backoff.lost(lasted=31) < 1.3
    assert backoff.failures == 1
