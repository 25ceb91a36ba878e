"""How often a peer is asked that has answered 429."""

from __future__ import annotations

import pytest

from kernel_proc.protocols.pacing import MAX_KEYS, Pacer


class Service:
    """Serves `burst` requests at once and then `rate` a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.at = burst, 0.0

    def serves(self, now: float) -> bool:
        self.level, self.at = min(self.burst, self.level + (now - self.at) * self.rate), now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@pytest.mark.parametrize(("rate", "burst"), [(1, 1), (5, 5), (0.5, 1), (30, 30)])
def test_most_requests_are_served_at_the_pace_of_the_service(rate: float, burst: float) -> None:
    now = 0.0
    pacer: Pacer[str] = Pacer(lambda: now)
    service = Service(rate, burst)
    served = refused = 0
    while now < 300:
        now += pacer.reserve("p")
        if service.serves(now):
            served += 1
            pacer.served("p")
        else:
            refused += 1
            pacer.refused("p")
    assert served >= 0.5 * rate * 300
    assert refused <= served / 3


def test_several_refusals_at_once_count_as_one() -> None:
    pacer: Pacer[str] = Pacer(lambda: 5.0)
    for _ in range(50):
        pacer.refused("p")
    assert pacer.delay("p") == 0.25


def test_slots_are_given_one_after_another() -> None:
    pacer: Pacer[str] = Pacer(lambda: 5.0)
    pacer.refused("p")
    assert [pacer.reserve("p") for _ in range(3)] == [0.25, 0.5, 0.75]
    assert pacer.reserve("another") == 0


def test_paces_are_bounded_and_expire() -> None:
    now = 0.0
    pacer: Pacer[int] = Pacer(lambda: now)
    for number in range(2 * MAX_KEYS):
        pacer.refused(number)
    assert len(pacer) == MAX_KEYS
    now = 700.0
    assert pacer.reserve(2 * MAX_KEYS - 1) == 0
    assert len(pacer) == MAX_KEYS - 1
