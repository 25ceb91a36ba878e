"""The choice of service peers."""

from __future__ import annotations

from ipc_schema.kernel.records import PeerRecord
from mapi_proc.peers import LIGHTPUSH, STORE, ServicePeers


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def peer(name: str, *protocols: str, shards: tuple[int, ...] = ()) -> PeerRecord:
    return PeerRecord(peer_id=name, protocols=protocols, shards=shards)


def peers(clock: Clock, *records: PeerRecord) -> ServicePeers:
    known = ServicePeers(clock, lambda: 0.5)
    known.update(records)
    return known


def test_by_protocol_and_shard() -> None:
    known = peers(Clock(), peer("a", *STORE, shards=(1,)), peer("b", *LIGHTPUSH), peer("c", *STORE))
    assert set(known.choose(STORE, 1, 5)) == {"a", "c"}
    assert known.choose(STORE, 2, 5) == ["c"]
    assert known.count(LIGHTPUSH) == 1


def test_the_latest_success_first_and_a_failing_one_is_rotated_out_but_never_given_up() -> None:
    clock = Clock()
    known = peers(clock, *(peer(name, *LIGHTPUSH) for name in "abc"))
    clock.now = 1.0
    known.succeeded(LIGHTPUSH, "b")
    assert known.choose(LIGHTPUSH, None, 1) == ["b"]
    known.failed(LIGHTPUSH, "b")
    assert "b" not in known.choose(LIGHTPUSH, None, 2)
    clock.now = 3.0
    assert "b" in known.choose(LIGHTPUSH, None, 3)
    for name in "abc":
        for _ in range(20):
            known.failed(LIGHTPUSH, name)
    assert len(known.choose(LIGHTPUSH, None, 2)) == 1, "all are waiting: the one whose turn comes first"
    clock.now += 100.0
    assert len(known.choose(LIGHTPUSH, None, 3)) == 3


def test_rotation_asks_the_one_that_was_asked_longest_ago() -> None:
    clock = Clock()
    known = peers(clock, *(peer(name, *STORE) for name in "abc"))
    asked = []
    for _ in range(6):
        clock.now += 1.0
        asked += known.choose(STORE, None, 1, rotate=True)
    assert asked[:3] == asked[3:]
    assert set(asked) == {"a", "b", "c"}


def test_no_peer_is_blamed_while_we_are_offline() -> None:
    clock = Clock()
    known = peers(clock, peer("a", *STORE))
    known.update(())
    known.failed(STORE, "a")
    known.update([peer("a", *STORE)])
    known.failed(STORE, "gone")
    assert known.choose(STORE, None, 1) == ["a"]
