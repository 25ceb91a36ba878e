"""What counts as a sign of life of the network, and which failures are excused without one."""

from __future__ import annotations

from kernel_proc.peers.online import OnlineMonitor, SleepDetector


def test_online_while_something_answers() -> None:
    monitor = OnlineMonitor(0)
    assert not monitor.online(0, 0), "nothing has been heard yet"
    assert monitor.may_be_online(10, 0), "which says nothing at first"
    assert not monitor.may_be_online(16, 0)
    assert monitor.came_back(17, 1)
    assert not monitor.came_back(18, 1)
    assert monitor.online(25, 0), "a moment without peers is not the end of the network"
    assert not monitor.online(60, 0)
    assert not monitor.came_back(60, 0)
    monitor.sign(70)
    assert monitor.came_back(71, 0)


def test_failures_of_an_outage_are_excused_when_it_shows() -> None:
    monitor = OnlineMonitor(0)
    monitor.failure(1000, "really gone")
    assert monitor.excused(1030, connected=3) == []
    # The network vanishes at 1030: until 1044 the dead connections still look alive.
    for at in (1033, 1040):
        monitor.failure(at, "unlucky")
    monitor.failure(1041, "other")
    assert monitor.excused(1044, connected=3) == []
    monitor.failure(1050, "unlucky")
    assert monitor.excused(1055, connected=0) == []
    assert monitor.excused(1060, connected=0) == ["unlucky", "unlucky", "other", "unlucky"]
    assert monitor.excused(1061, connected=0) == [], "once"


def test_failures_that_were_the_peers_own_stay() -> None:
    monitor = OnlineMonitor(0)
    for at in range(0, 1000, 10):
        monitor.failure(at, "gone")
        assert monitor.excused(at, connected=1) == []
    assert monitor.excused(1100, connected=0) == ["gone"] * 3, "only those around the end"


def test_sleep_is_seen_and_slowness_is_not() -> None:
    detector = SleepDetector(at_least=10)
    assert detector.slept(100, 100) is None
    assert detector.slept(500, 500) is None
    assert detector.slept(505, 504) is None
    assert detector.slept(1505, 505) == 999
    assert detector.slept(1510, 510) is None
