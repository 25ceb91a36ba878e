"""Positions and the spans that stores have to fill."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos_bridge.positions import MAX_SPANS, OutPosition, PositionError, Span, first_span, merge_spans

spans = st.tuples(st.integers(0, 300), st.integers(0, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def moments(found: tuple[Span, ...]) -> set[int]:
    return {moment for low, high in found for moment in range(low, high + 1)}


@given(st.binary(min_size=8, max_size=8), st.integers(0, 2**63 - 1), st.lists(spans, max_size=5))
def test_it_comes_back_as_it_was_written(epoch: bytes, number: int, missing: list[Span]) -> None:
    position = OutPosition(epoch=epoch, seq=number, time_ns=number, spans=merge_spans(missing), owner="me")
    assert OutPosition.decode(position.encode()) == position


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"epoch": 1, "seq": -1}'])
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises(PositionError):
        OutPosition.decode(data)


@given(st.lists(spans, max_size=20), spans)
def test_spans_are_joined_and_filled_without_losing_a_moment(missing: list[Span], filled: Span) -> None:
    position = OutPosition(epoch=b"", seq=0, time_ns=0).missing(*missing)
    expected = {moment for low, high in missing for moment in range(low, high + 1)}
    assert moments(position.spans) == expected
    assert all(one[1] + 1 < other[0] for one, other in zip(position.spans, position.spans[1:], strict=False))
    left = position.filled(filled)
    assert moments(left.spans) == expected - set(range(filled[0], filled[1] + 1))


def test_there_is_a_bound_beyond_which_more_is_asked_for_than_was_missed() -> None:
    many = [(number * 100, number * 100 + 1) for number in range(MAX_SPANS + 50)]
    merged = merge_spans(many)
    assert len(merged) == MAX_SPANS
    assert moments(merged) >= moments(tuple(many))


def test_a_new_node_goes_on_where_any_bridge_was() -> None:
    others = [OutPosition(epoch=b"", seq=0, time_ns=time) for time in (50, 70, 60)]
    assert first_span(others, 100) == (70, 100)
    assert first_span([], 100) is None
    assert first_span(others, 70) is None
