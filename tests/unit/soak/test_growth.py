from __future__ import annotations

from tests.soak.growth import BOUNDS, Bound, growth


def samples(**last: float) -> list[dict[str, float]]:
    flat = dict.fromkeys(BOUNDS, 10.0)
    return [flat] * 8 + [flat | last] * 2


def test_what_stays_as_it_is_is_within_its_bounds() -> None:
    assert all(found.within and found.grown == 0 for found in growth("p", samples(), 60, 100))


def test_each_figure_is_bounded() -> None:
    for figure in BOUNDS:
        grown = [found for found in growth("p", samples(**{figure: 1e9}), 60, 100) if not found.within]
        assert [found.figure for found in grown] == [figure]


def test_one_peak_is_not_growth() -> None:
    peak = samples()
    peak[-1] = peak[-1] | {"files": 1000.0}
    assert all(found.within for found in growth("p", [*peak, *samples()], 60, 100))


def test_what_may_grow_with_time_and_with_messages() -> None:
    assert Bound(1, hour=2, message=3).allowed(1800, 10) == 32
