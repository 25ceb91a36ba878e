from __future__ import annotations

from itertools import pairwise

import pytest

from tests.soak.plan import PERIOD, What, make_plan

MEMBERS = [f"k{number}" for number in range(10)]


@pytest.mark.parametrize("seconds", [60.0, 900.0, 36_000.0])
def test_a_plan_follows_from_its_seed_and_fits_its_time(seconds: float) -> None:
    plan = make_plan(7, seconds, MEMBERS, "boot")
    assert plan == make_plan(7, seconds, MEMBERS, "boot")
    assert plan != make_plan(8, seconds, MEMBERS, "boot")
    assert len(plan) >= min(3, seconds / PERIOD)
    assert all(one.at + one.away < other.at for one, other in pairwise(plan))
    assert plan[-1].at + plan[-1].away < seconds
    for turn in plan:
        assert (turn.what is What.RESTART) == (turn.member in MEMBERS) == (turn.away > 0)


def test_the_bootstrap_goes_and_returns_in_turn() -> None:
    turns = make_plan(1, 36_000.0, MEMBERS, "boot")
    whats = [turn.what for turn in turns if turn.member == "boot"]
    assert turns[1].what is What.GO
    assert len(whats) > 50
    assert set(pairwise(whats)) == {(What.GO, What.RETURN), (What.RETURN, What.GO)}
