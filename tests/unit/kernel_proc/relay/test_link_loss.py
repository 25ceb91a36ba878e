"""After a lost connection or stream: no GRAFT to a peer that may keep a back-off in silence, as nim-libp2p
does, and a mesh among nodes of our own that is back at once."""

from __future__ import annotations

import pytest

from kernel_proc.relay.rpc import Prune
from tests.support.nim_mesh import NimMesh
from tests.unit.kernel_proc.relay.core import Core, T, U

NIM = "p0"


class Pair:
    """Our router, connected to a peer with nim's rules; both beat once a second."""

    def __init__(self, *, nim_grafts: bool = True) -> None:
        self.core = Core()
        self.join()
        self.nim = NimMesh((T, U), self.core.now, grafts=nim_grafts)

    def join(self) -> None:
        for topic in (T, U):
            self.core.router.subscribe(topic, self.core.now)

    def connect(self) -> None:
        self.core.peers(1, T, U)
        self.open()

    def open(self) -> None:
        """Our stream opens: grafts that were queued before are said by the hello."""
        for out in self.core.sent().values():
            self.deliver([], out.control.prune)
        self.deliver(self.core.router.hello(NIM, self.core.now).control.graft, [])

    def disconnect(self) -> None:
        self.core.router.remove_peer(NIM, self.core.now)
        self.nim.link_lost(self.core.now)

    def deliver(self, grafts: list[str], prunes: list[Prune]) -> None:
        for prune in prunes:
            self.nim.on_prune(prune.topic, prune.backoff or 60, self.core.now)
        for topic in grafts:
            backoff = self.nim.on_graft(topic, self.core.now)
            if backoff is not None:
                self.core.prunes(NIM, round(backoff), topic)

    def exchange(self) -> None:
        for out in self.core.sent().values():
            self.deliver(out.control.graft, out.control.prune)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.core.beat()
            self.exchange()
            grafts, prunes = self.nim.heartbeat(self.core.now)
            for topic in grafts:
                self.core.gets(NIM, graft=[topic])
            for topic in prunes:
                self.core.prunes(NIM, 60, topic)
            self.exchange()

    def is_meshed(self) -> bool:
        ours = {topic for topic in (T, U) if NIM in self.core.mesh(topic)}
        return ours == self.nim.mesh == {T, U}

    def assert_clean(self) -> None:
        assert (self.nim.grafts_in_backoff, self.nim.pruned_for_score) == (0, 0)


@pytest.mark.parametrize("nim_grafts", [True, False])
@pytest.mark.parametrize("away", [1, 30, 59, 61, 300])
def test_a_lost_connection_costs_one_back_off_and_no_score(away: int, nim_grafts: bool) -> None:
    pair = Pair(nim_grafts=nim_grafts)
    pair.connect()
    pair.run(3)
    assert pair.is_meshed()
    pair.disconnect()
    pair.core.beat(away)
    pair.connect()
    pair.run(max(2, 66 - away))
    assert pair.is_meshed()
    pair.run(120)
    assert pair.is_meshed()
    pair.assert_clean()


@pytest.mark.parametrize("nim_grafts", [True, False])
@pytest.mark.parametrize("away", [0, 20, 50])
def test_our_own_restart_does_not_end_the_back_off(away: int, nim_grafts: bool) -> None:
    pair = Pair(nim_grafts=nim_grafts)
    pair.connect()
    pair.run(3)
    pair.disconnect()
    now = pair.core.now + away
    pair.core = Core(seed=2)  # a new process: it knows what the peer store kept, and nothing else
    pair.core.now = now
    pair.join()
    pair.core.router.was_linked(NIM, away, now)
    pair.connect()
    pair.run(66 - away)
    assert pair.is_meshed()
    pair.run(120)
    assert pair.is_meshed()
    pair.assert_clean()


@pytest.mark.parametrize("nim_grafts", [True, False])
def test_a_stream_closed_for_want_of_traffic_is_reopened_without_graft(nim_grafts: bool) -> None:
    """nwaku closes relay streams after about 597 s without traffic, and keeps the connection."""
    pair = Pair(nim_grafts=nim_grafts)
    pair.connect()
    pair.run(597)
    assert pair.is_meshed()
    pair.nim.link_lost(pair.core.now)
    pair.core.router.stream_lost(NIM, pair.core.now)
    pair.open()
    assert not pair.core.mesh(T) | pair.core.mesh(U) | pair.nim.mesh
    pair.run(66)
    assert pair.is_meshed()
    pair.run(500)
    assert pair.is_meshed()
    pair.assert_clean()


def test_the_model_punishes_what_we_used_to_do() -> None:
    """An immediate GRAFT costs the mesh again and again: the model reproduces what a live node did."""
    pair = Pair(nim_grafts=False)
    pair.connect()
    pair.run(3)
    pair.disconnect()
    pair.connect()
    pair.core.peer(NIM).same_implementation = True  # without the precaution
    pair.run(120)
    assert pair.nim.grafts_in_backoff == 2  # one on each topic
    assert pair.nim.pruned_for_score > 0
    assert not pair.is_meshed()


def test_a_graft_of_the_peer_is_taken_meanwhile() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    core.router.remove_peer(NIM, core.now)
    core.peers(1, T)
    assert core.mesh() == set()
    core.gets(NIM, graft=[T])
    assert core.mesh() == {NIM}
    assert core.router.hello(NIM, core.now).control.graft == []


def test_a_lost_stream_is_followed_by_a_short_prune_on_every_topic_of_the_mesh() -> None:
    core = Core()
    for topic in (T, U):
        core.router.subscribe(topic, core.now)
    core.peers(1, T)
    core.sent()
    core.router.stream_lost(NIM, core.now)
    assert core.sent_to(lambda control: control.prune) == {NIM: [Prune(T, 1)]}
    assert core.mesh() == set()
    assert core.router.topic_peers(T) == [NIM]


def test_nodes_of_our_own_are_grafted_at_once_after_a_lost_connection() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    core.router.remove_peer(NIM, core.now)
    core.peers(1, T)
    assert core.mesh() == set()  # identify has not come
    core.sent()
    core.router.describe_peer(NIM, None, same_implementation=True, now=core.now)
    assert core.mesh() == {NIM}
    assert core.sent_to(lambda control: control.graft) == {NIM: [T]}
    assert core.router.hello(NIM, core.now).control.graft == [T]


def test_a_lost_stream_to_a_node_of_our_own_changes_nothing() -> None:
    core = Core()
    core.router.subscribe(T, core.now)
    core.peers(1, T)
    core.router.describe_peer(NIM, None, same_implementation=True, now=core.now)
    core.sent()
    core.router.stream_lost(NIM, core.now)
    assert core.sent() == {}
    assert core.mesh() == {NIM}
    assert core.router.hello(NIM, core.now).control.graft == [T]


def test_link_loss_backoffs_are_bounded_and_expire() -> None:
    core = Core(max_backoffs=100)
    for n in range(300):
        core.peers(1, first=n)
        core.router.remove_peer(f"p{n}", core.now)
    assert core.router.counters()["link_loss_backoffs"] == 100
    core.beat(64)
    assert core.router.counters()["link_loss_backoffs"] == 0
