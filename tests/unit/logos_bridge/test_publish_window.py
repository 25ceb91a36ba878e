"""The position moves only over what is stored, whatever the order of the answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logos_bridge.publish_window import PublishWindow


@given(st.permutations(range(12)))
def test_the_prefix_grows_to_the_first_hole(order: list[int]) -> None:
    window: PublishWindow[int] = PublishWindow(100, 1_000)
    slots = [window.add(number, 10) for number in range(12)]
    done: set[int] = set()
    passed = -1
    for number in order:
        last = window.stored(slots[number])
        done.add(number)
        if last is not None:
            assert last > passed
            passed = last
        assert set(range(passed + 1)) <= done
        assert passed + 1 not in done
        assert [slot.item for slot in window.unstored()] == sorted(set(range(12)) - done)
    assert (passed, len(window), window.bytes) == (11, 0, 0)


def test_it_is_bounded_but_a_large_item_passes_alone() -> None:
    window: PublishWindow[str] = PublishWindow(2, 100)
    assert window.has_room(1_000)
    large = window.add("large", 1_000)
    assert not window.has_room(1)
    assert window.stored(large) == "large"
    window.add("a", 40)
    window.add("b", 40)
    assert not window.has_room(10), "the count"
