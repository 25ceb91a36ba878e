"""What a restarted node knows of the links it had."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from kernel_proc.p2p.api import Direction, PeerConnection
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.recent_links import MAX_LOST, PERIOD, RecentLinks
from tests.support.mock_clock import mock_clock_test


def connection(peer_id: str) -> PeerConnection:
    return PeerConnection(peer_id, "/ip4/10.0.0.1/tcp/1", "10.0.0.1", Direction.OUTBOUND, 0.0)


def links(path: Path | None, *, boot: str = "boot", wall: float = 1e9) -> RecentLinks:
    return RecentLinks(path, PeerClock(lambda: wall, trio.current_time, boot))


def restored(path: Path, **more: float) -> dict[str, float]:
    found: dict[str, float] = {}
    links(path, **more).restore(found.__setitem__)  # type: ignore[arg-type]
    return found


@mock_clock_test
async def test_a_killed_node_remembers_its_recent_links(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    first = links(path)
    first.peer_connected(connection("stays"))
    first.peer_connected(connection("goes"))
    first.peer_disconnected("goes", "closed")
    await trio.sleep(30)
    first.save()
    await trio.sleep(20)
    found = restored(path)
    # Each may have been lost as much later as the file may be behind.
    assert found == {"stays": 20 - PERIOD, "goes": 50 - PERIOD}
    await trio.sleep(200)
    assert restored(path) == {}


@mock_clock_test
async def test_a_stopped_node_writes_when_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    first = links(path)
    first.peer_connected(connection("p1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.run)
        await trio.sleep(7)
        nursery.cancel_scope.cancel()
    assert restored(path) == {"p1": 0.0}
    assert path.stat().st_mode & 0o777 == 0o600


@mock_clock_test
async def test_a_clock_set_back_while_the_host_was_off_is_taken_for_no_time(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    first = links(path)
    first.peer_connected(connection("p1"))
    with trio.move_on_after(1):
        await first.run()
    found: dict[str, float] = {}
    links(path, boot="another", wall=1e9 - 3600).restore(found.__setitem__)
    assert found == {"p1": 0.0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":1,"stamp":{},"peers":{}}',
        '{"version":1,"stamp":{"boot":"","steady":NaN,"wall":0,"label":0},"peers":{}}',
        '{"version":1,"stamp":{"boot":"","steady":0,"wall":1e9,"label":0},"peers":{"p":"x"}}',
        '{"version":1,"stamp":{"boot":"","steady":0,"wall":1e9,"label":0},"peers":{"p":NaN}}',
        '{"version":1,"stamp":{"boot":"","steady":0,"wall":1e9,"label":0},"peers":["p"]}',
    ],
)
@mock_clock_test
async def test_a_file_that_makes_no_sense_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "links.json"
    path.write_text(text)
    assert restored(path) == {}


@mock_clock_test
async def test_lost_links_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    several = links(path)
    for number in range(MAX_LOST + 10):
        several.peer_connected(connection(f"p{number}"))
        several.peer_disconnected(f"p{number}", "closed")
    several.save()
    assert len(restored(path)) == MAX_LOST
