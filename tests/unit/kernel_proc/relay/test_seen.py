from __future__ import annotations

from kernel_proc.relay.seen import SeenCache


def test_an_id_is_remembered_for_the_whole_time_and_not_much_longer() -> None:
    seen = SeenCache(ttl=120, max_ids=1000, now=0)
    seen.add(b"a", 100)
    forgotten = None
    for now in range(101, 400):
        seen.expire(now)
        if b"a" not in seen:
            forgotten = now
            break
    assert forgotten is not None
    assert 220 <= forgotten <= 340


def test_after_a_long_silence_everything_is_gone() -> None:
    seen = SeenCache(ttl=120, max_ids=1000, now=0)
    seen.add(b"a", 0)
    seen.expire(1000)
    assert b"a" not in seen
    assert len(seen) == 0


def test_it_is_bounded_and_says_when_it_forgot_early() -> None:
    seen = SeenCache(ttl=120, max_ids=10, now=0)
    for n in range(100):
        seen.add(bytes([n]), 0)
    assert len(seen) <= 20
    assert bytes([99]) in seen
    assert bytes([90]) in seen
    assert seen.early_turns == 9
