"""Old messages are looked up before they are published; recent ones are JetStream's to notice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos_bridge.duplicates import SKEW_NS, DuplicateGuard
from logos_bridge.id_set import IdSet
from logos_sockets.memory import resident_bytes

WINDOW = 120.0
S = 1_000_000_000
NOW = 1_700_000_000 * S


def test_a_recent_message_needs_nothing() -> None:
    assert DuplicateGuard(WINDOW).reading_needed(NOW - 5 * S, NOW, 0.0) is None


def test_an_old_one_needs_the_ids_since_then_once() -> None:
    guard = DuplicateGuard(WINDOW)
    old = NOW - 300 * S
    since = guard.reading_needed(old, NOW, 0.0)
    assert since == old - SKEW_NS
    guard.read(IdSet(["x"]), since, 0.0)
    assert guard.known("x")
    assert guard.reading_needed(old + S, NOW, 1.0) is None
    assert guard.reading_needed(old - S, NOW, 1.0) == old - S - SKEW_NS, "older than what was read"
    assert guard.reading_needed(old + S, NOW + 60 * S, 60.0) is not None, "what was read is too old"


def test_memory_is_freed_when_messages_are_recent_again() -> None:
    guard = DuplicateGuard(WINDOW)
    guard.read(IdSet(["x"]), 0, 0.0)
    assert guard.reading_needed(NOW, NOW, 1.0) is None
    assert len(guard) == 1, "others may still be read with it"
    assert guard.reading_needed(NOW, NOW, 61.0) is None
    assert len(guard) == 0


def test_many_ids_take_no_more_memory_than_few() -> None:
    ids = IdSet()
    ids.add(f"{number:064x}" for number in range(10_000))
    before = resident_bytes()
    ids.add(f"{number:064x}" for number in range(400_000))
    assert len(ids) == 400_000
    assert "0" * 64 in ids
    assert "1" + "0" * 63 not in ids
    assert resident_bytes() - before < 16 << 20, "a set of them takes 60 MiB"
    ids.close()


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 600)), min_size=1, max_size=40),
    st.floats(60, 600),
    st.floats(0, 10),
)
def test_what_another_bridge_published_in_time_is_never_published_again(
    steps: list[tuple[float, float]], window: float, delay: float
) -> None:
    """Each message was published by another bridge `delay` after it was seen; ours comes `age` after that."""
    guard, now = DuplicateGuard(window), 1_000.0
    for pause, age in steps:
        now += pause
        seen, stored_at = now - age, now - age + delay
        if stored_at > now:
            continue
        since = guard.reading_needed(int(seen * S), int(now * S), now)
        if since is not None:
            assert since <= stored_at * S
            guard.read(IdSet(), since, now)
            continue  # the reading holds it
        in_window = now - stored_at < window
        was_read = (
            guard._since_ns is not None and guard._since_ns <= stored_at * S and stored_at <= guard._read_at
        )
        assert in_window or was_read
