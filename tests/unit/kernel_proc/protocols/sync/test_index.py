"""The index of sync ids, against a sorted list."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.protocols.sync import index as index_module
from kernel_proc.protocols.sync.index import KeyIndex, MergedView, RangeSummary, fingerprint_of
from kernel_proc.protocols.sync.keys import SyncKey, key_at, make_key, time_of

KEYS = st.tuples(st.integers(0, 40), st.integers(0, 3)).map(
    lambda pair: make_key(pair[0], bytes([pair[1]]) * 32)
)


def xor(keys: list[SyncKey]) -> int:
    """The fingerprint, plainly."""
    found = 0
    for key in keys:
        found ^= int.from_bytes(key[8:], "big")
    return found


def check(index: KeyIndex, model: set[SyncKey], low: SyncKey, high: SyncKey) -> None:
    inside = sorted(key for key in model if low <= key <= high)
    assert index.keys(low, high) == inside
    assert index.summary(low, high) == RangeSummary(len(inside), xor(inside))
    assert len(index) == len(model)
    assert index.oldest == min(model, default=None)


@given(
    st.lists(st.tuples(st.sampled_from(["add", "add", "add", "remove", "prune"]), KEYS), max_size=60),
    KEYS,
    KEYS,
)
def test_it_is_a_sorted_set_with_fingerprints(
    steps: list[tuple[str, SyncKey]], low: SyncKey, high: SyncKey
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "BLOCK", 4)
        index, model = KeyIndex(), set[SyncKey]()
        for step, key in steps:
            if step == "add":
                assert index.add(key) is (key not in model)
                model.add(key)
            elif step == "remove":
                assert index.remove(key) is (key in model)
                model.discard(key)
            else:
                before = len(model)
                model = {one for one in model if time_of(one) >= time_of(key)}
                assert index.remove_before(time_of(key)) == before - len(model)
            check(index, model, low, high)
        check(index, model, key_at(0), key_at(100))


def test_many_keys_in_any_order() -> None:
    random = Random(3)
    keys = [make_key(random.randrange(10**6), random.randbytes(32)) for _ in range(5000)]
    index = KeyIndex()
    for key in keys:
        index.add(key)
    ordered = sorted(keys)
    assert index.keys(ordered[0], ordered[-1]) == ordered
    for _ in range(50):
        left, right = sorted(random.sample(range(5000), 2))
        part = ordered[left : right + 1]
        assert index.summary(ordered[left], ordered[right]) == RangeSummary(len(part), xor(part))
        assert fingerprint_of(part) == xor(part)


def test_indexes_of_several_topics_are_one_view() -> None:
    one, two = KeyIndex(), KeyIndex()
    keys = [make_key(number, bytes([number + 1]) * 32) for number in range(10)]
    for number, key in enumerate(keys):
        (one if number % 3 else two).add(key)
    view = MergedView([one, two])
    assert view.keys(keys[2], keys[7]) == keys[2:8]
    assert view.summary(keys[2], keys[7]) == RangeSummary(6, xor(keys[2:8]))
    assert MergedView([]).summary(keys[0], keys[9]) == RangeSummary(0, 0)
