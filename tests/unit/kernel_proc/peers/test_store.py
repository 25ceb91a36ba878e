"""The store of known peers: what it learns, how it waits, what it forgets."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ipc_schema.config.addresses import peer_id_in
from kernel_proc.peers.clock import PeerClock
from kernel_proc.peers.known import KnownPeer, PeerFacts, PeerOrigin, group_of_address
from kernel_proc.peers.store import PeerStore
from kernel_proc.peers.store_file import load_peers, save_peers, snapshot

NOW = 1_800_000_000.0
CLOCK = PeerClock(lambda: NOW, lambda: 50.0, "boot")


def address(number: int, ip: str | None = None) -> str:
    return f"/ip4/{ip or f'10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}'}/tcp/1/p2p/p{number}"


def store(capacity: int = 100, per_group: int = 0, **more: object) -> PeerStore:
    return PeerStore(capacity, per_group=per_group, rng=Random(1), own_id="me", **more)  # type: ignore[arg-type]


def learn(into: PeerStore, number: int, ip: str | None = None, *, source: str = "", **facts: Any) -> bool:
    where = (address(number, ip),)
    return into.learn(f"p{number}", where, PeerOrigin.DISCV5, NOW, PeerFacts(**facts), source=source)


def test_the_delay_grows_with_each_failure_up_to_a_limit() -> None:
    peers, now = store(), NOW
    waits: list[float] = []
    learn(peers, 1)
    known = peers.get("p1")
    assert known is not None
    for _ in range(30):
        peers.failed("p1", now, online=True)
        waits.append(known.retry_at - now)
        now = known.retry_at
        assert known.is_due(now)
    assert waits[0] < 7
    assert waits[3] > waits[0]
    assert max(waits) <= 1800 * 1.2
    peers.succeeded("p1", now)
    assert known.failures == 0
    assert known.is_due(now)


def test_failures_while_offline_do_not_count() -> None:
    peers = store()
    learn(peers, 1)
    for _ in range(20):
        peers.failed("p1", NOW, online=False)
    known = peers.get("p1")
    assert known is not None
    assert known.failures == 0
    assert known.retry_at <= NOW + 10


def test_failed_peers_are_retried_soon_once_online_useless_ones_are_not() -> None:
    peers = store()
    for number in (1, 2):
        learn(peers, number)
        for _ in range(9):
            peers.failed(f"p{number}", NOW, online=True)
    peers.postpone("p2", NOW, 3600)
    peers.retry_soon(NOW)
    one, two = peers.get("p1"), peers.get("p2")
    assert one is not None
    assert two is not None
    assert one.is_due(NOW + 10)
    assert not two.is_due(NOW + 3000)


def test_ten_thousand_bogus_peers_do_not_crowd_out_good_ones() -> None:
    peers = store(capacity=200)
    for number in range(20):
        learn(peers, number)
        peers.succeeded(f"p{number}", NOW)
    for number in range(100, 10_100):
        learn(peers, number)
        if number % 3 == 0:
            peers.failed(f"p{number}", NOW, online=True)
    assert len(peers) <= 200
    assert all(peers.get(f"p{number}") is not None for number in range(20))
    assert peers.pruned > 9000


def test_one_source_cannot_fill_the_store_with_unreached_peers() -> None:
    peers = store(capacity=400)
    for number in range(10_000):
        learn(peers, number, source="liar")
    assert len(peers) == 100
    for number in range(20_000, 20_050):
        learn(peers, number, source="friend")
    for number in range(10_000, 15_000):
        learn(peers, number, source="liar")
    assert all(peers.get(f"p{number}") is not None for number in range(20_000, 20_050))
    there = [peer for peer in peers if peer.source == "liar"]
    assert len(there) == 100
    # Reached peers no longer count for the liar; and those the friend names too wait in the friend's queue.
    for peer in there[:40]:
        peers.succeeded(peer.peer_id, NOW)
    learn(peers, int(there[50].peer_id[1:]), source="friend")
    assert there[50].source == "friend"
    for number in range(30_000, 30_100):
        learn(peers, number, source="liar")
    assert sum(peer.source == "liar" and not peer.last_success for peer in peers) == 100


def test_a_failure_can_be_undone() -> None:
    peers = store()
    learn(peers, 1)
    for _ in range(2):
        peers.failed("p1", NOW, online=True)
        peers.undo_failure("p1")
    known = peers.get("p1")
    assert known is not None
    assert known.failures == 0
    peers.undo_failure("p1")
    peers.undo_failure("unknown")
    assert known.failures == 0


def test_one_place_cannot_fill_the_store() -> None:
    peers = store(capacity=1000, per_group=10)
    for number in range(500):
        learn(peers, number, "192.0.2.1")
    learn(peers, 1000, "192.0.2.2")
    assert len(peers) == 11
    assert peers.refused == 490
    # A name that proved useless makes room; a good one does not.
    peers.failed("p3", NOW, online=True)
    assert learn(peers, 600, "192.0.2.1")
    assert peers.get("p3") is None
    assert len(peers) == 11


def test_the_connected_are_kept_whatever_comes() -> None:
    peers = PeerStore(5, rng=Random(1), keep=lambda peer: peer == "p1")
    learn(peers, 1)
    for _ in range(10):
        peers.failed("p1", NOW, online=True)
    for number in range(2, 50):
        learn(peers, number)
    assert peers.get("p1") is not None


def test_a_newer_record_holds_and_an_older_one_does_not() -> None:
    peers = store()
    learn(peers, 1, "10.0.0.1", seq=5, enr=b"five", cluster=2, shards=(1,))
    peers.failed("p1", NOW, online=True)
    learn(peers, 1, "10.0.0.9", seq=4, enr=b"four", cluster=3, shards=(2,))
    known = peers.get("p1")
    assert known is not None
    assert (known.enr, known.cluster, known.shards) == (b"five", 2, (1,))
    learn(peers, 1, "10.0.0.2", seq=6, enr=b"six", cluster=2, shards=(1, 3))
    assert list(known.addresses) == [address(1, "10.0.0.2")]
    assert known.is_due(NOW), "it has moved: the old place says nothing of the new one"
    learn(peers, 1, "10.0.0.3")
    assert list(known.addresses) == [address(1, "10.0.0.2"), address(1, "10.0.0.3")]
    peers.succeeded("p1", NOW, address(1, "10.0.0.3"))
    assert known.addresses[0] == address(1, "10.0.0.3")


def test_ourselves_and_the_unreachable_are_not_learned() -> None:
    peers = store()
    assert not peers.learn("me", (address(1),), PeerOrigin.DISCV5, NOW)
    assert not peers.learn("p1", (), PeerOrigin.DISCV5, NOW)
    assert not peers.learn("p1", ("/ip4/" + "1" * 400,), PeerOrigin.DISCV5, NOW)
    assert len(peers) == 0


def test_a_short_connection_counts_as_a_failure() -> None:
    peers = store()
    learn(peers, 1)
    known = peers.get("p1")
    assert known is not None
    peers.lost("p1", NOW, 0.5)
    assert known.failures == 1
    peers.succeeded("p1", NOW)
    peers.lost("p1", NOW, 300)
    assert known.failures == 0
    assert known.is_due(NOW + 1)


def test_a_disconnected_peer_stays_postponed_after_a_short_connection() -> None:
    peers = store()
    learn(peers, 1)
    peers.postpone("p1", NOW, 600)
    peers.lost("p1", NOW, 0.5)
    known = peers.get("p1")
    assert known is not None
    assert not known.is_due(NOW + 500)


def test_the_last_failure_is_reported() -> None:
    peers = store()
    learn(peers, 1)
    known = peers.get("p1")
    assert known is not None
    assert known.why == ""
    peers.failed("p1", NOW, online=False, why="x" * 1000)
    assert known.why == "x" * 200
    peers.lost("p1", NOW, 300, "closed")
    assert known.why == "closed"
    peers.postpone("p1", NOW, 600, "sent away")
    assert known.why == "sent away"
    peers.postpone("p1", NOW, 3600, "of another cluster")
    peers.postpone("p1", NOW, 600)
    peers.lost("p1", NOW, 0.5, "closed by peer")
    assert known.why == "of another cluster"
    peers.succeeded("p1", NOW)
    assert known.why == ""


def test_the_file_gives_back_what_it_got(tmp_path: Path) -> None:
    peers = store()
    learn(peers, 1, seq=3, enr=b"\x00\xff", cluster=2, shards=(1, 2), capabilities=3)
    peers.described("p1", protocols=("/b", "/a"))
    peers.failed("p1", NOW, online=True)
    learn(peers, 2)
    peers.succeeded("p2", NOW)
    path = tmp_path / "peers.json"
    save_peers(path, snapshot(peers), CLOCK.stamp())
    again = store()
    again.restore(load_peers(path, CLOCK), NOW + 1)
    assert list(again) == list(peers)
    assert load_peers(tmp_path / "none", CLOCK) == []


ROW: dict[str, object] = {
    "peer_id": "p1",
    "addresses": ["/ip4/10.0.0.1/tcp/1"],
    "origin": "dns",
    "protocols": [],
    "capabilities": 0,
    "cluster": 2,
    "shards": [1],
    "enr": "",
    "seq": 0,
    "learned": NOW,
    "last_success": NOW,
    "last_attempt": NOW,
    "failures": 0,
    "retry_at": 0,
}
STRANGE = ("Infinity", "-Infinity", "NaN", "1e999", '"soon"', "null", "[]")
STRANGE_ROWS = [
    json.dumps(ROW).replace(json.dumps(name) + ": " + json.dumps(ROW[name]), f'"{name}": {value}')
    for name in ("learned", "last_success", "last_attempt", "retry_at", "failures", "capabilities", "seq")
    for value in STRANGE
]


def test_a_file_of_version_0_1_is_read(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({"version": 1, "peers": [ROW]}))
    (peer,) = load_peers(path, CLOCK)
    assert (peer.peer_id, peer.last_success, peer.retry_at) == ("p1", NOW, 0.0)


@pytest.mark.parametrize("step", [-31_536_000, -3600, -1200, 0, 1200, 3600, 31_536_000])
@pytest.mark.parametrize("boot", ["boot", "another"])
def test_a_wait_survives_a_restart_and_a_step_of_the_wall_clock(tmp_path: Path, step: int, boot: str) -> None:
    """On one boot of the host the time that passed is known whatever the wall clock says."""
    before = PeerClock(lambda: NOW, lambda: 100.0, "boot")
    peers = store()
    learn(peers, 1)
    peers.postpone("p1", before(), 600)
    left = _of(peers, "p1").retry_at - before()
    path = tmp_path / "peers.json"
    save_peers(path, snapshot(peers), before.stamp())
    after = PeerClock(lambda: NOW + 60 + step, lambda: 160.0, boot)
    again = store()
    again.restore(load_peers(path, after), after())
    waits = _of(again, "p1").retry_at - after()
    if boot == "boot":
        assert waits == pytest.approx(left - 60)
    else:  # only the wall clock can tell; at worst the peer is tried too early or waits as long again
        assert waits == pytest.approx(left - max(0, 60 + step))


def _of(peers: PeerStore, name: str) -> KnownPeer:
    known = peers.get(name)
    assert known is not None
    return known


def test_a_clock_that_was_set_back_does_not_lock_peers_away(tmp_path: Path) -> None:
    peer = KnownPeer("p1", (address(1),), retry_at=NOW + 10**9, last_success=NOW + 10**9, failures=3)
    peers = store()
    peers.restore([peer], NOW)
    assert peer.retry_at <= NOW + 3600
    assert peer.last_success <= NOW


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version":2,"peers":[]}',
        '{"version":1,"peers":[{}]}',
        "[" * 100_000,
        *(f'{{"version":1,"peers":[{row}]}}' for row in STRANGE_ROWS),
        *(
            f'{{"version":1,"peers":[],"stamp":{{"boot":"","steady":{one},"wall":0,"label":0}}}}'
            for one in STRANGE
        ),
        '{"version":1,"peers":[],"stamp":7}',
    ],
)
def test_a_file_that_is_none_is_put_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(text)
    assert load_peers(path, CLOCK) == []
    assert not path.exists()
    assert path.with_name("peers.json.unreadable").exists()


def test_places_and_names() -> None:
    assert group_of_address("/ip4/192.0.2.1/tcp/1") == "192.0.2.1"
    assert group_of_address("/ip6/2001:db8::1/tcp/1") == group_of_address("/ip6/2001:db8::2/tcp/9")
    assert group_of_address("/ip6/::ffff:192.0.2.1/tcp/1") == "192.0.2.1"
    assert group_of_address("/dns4/A.example/tcp/1") == "a.example"
    assert peer_id_in("/ip4/1.2.3.4/tcp/1/p2p/abc") == "abc"
    assert peer_id_in("/ip4/1.2.3.4/tcp/1") is None
