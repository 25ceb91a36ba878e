"""How hard the sources work."""

from __future__ import annotations

from kernel_proc.peering.pace import ExchangePace, WalkPace


def test_walks_are_frequent_only_while_they_are_useful() -> None:
    pace = WalkPace(1000.0)
    assert pace.pause(1000.0, arrived=0, connected=False, short=True) == 1
    assert pace.pause(1010.0, arrived=3, connected=True, short=True) == 5
    assert pace.pause(1020.0, arrived=3, connected=True, short=True) == 5
    assert pace.pause(1026.0, arrived=3, connected=True, short=True) == 10, "in vain"
    assert pace.pause(1041.0, arrived=3, connected=True, short=True) == 20
    assert pace.pause(9000.0, arrived=3, connected=True, short=True) == 60
    assert pace.pause(10.0**6, arrived=3, connected=True, short=True) == 60, "days in vain overflow nothing"
    assert pace.pause(9001.0, arrived=4, connected=True, short=True) == 5, "news"
    assert pace.pause(9002.0, arrived=4, connected=True, short=False) == 60
    assert pace.pause(9003.0, arrived=4, connected=False, short=False) == 1


def test_fruitless_requests_become_less_frequent() -> None:
    pace = ExchangePace()
    assert pace.no_peer_to_ask() == 1
    assert pace.answered(news=False) == 5
    assert [pace.answered(news=False) for _ in range(7)] == [10, 20, 40, 80, 160, 240, 240]
    assert pace.answered(news=True) == 5
    assert pace.answered(news=False) == 10
