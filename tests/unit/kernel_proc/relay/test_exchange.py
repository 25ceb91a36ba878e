"""Peer exchange in the core: which peers we suggest in which PRUNE, and which suggestions are passed on."""

from __future__ import annotations

from random import Random

import pytest

from kernel_proc.relay.exchange import peers_to_offer
from kernel_proc.relay.params import ScoreParams
from kernel_proc.relay.rpc import PeerInfo, Prune
from kernel_proc.relay.scores import ScoreBook
from kernel_proc.relay.state import Peer, PxOffer
from tests.unit.kernel_proc.relay.core import Core, T, U

OFFER = (PeerInfo(b"id", b"record"),)


def info(name: str) -> PeerInfo:
    return PeerInfo(name.encode(), b"record of " + name.encode())


def exchanging(peers: int, *, d_high: int = 8, peer_exchange: bool = True) -> Core:
    """A core with peer exchange on, in a mesh with the first `d_high` of `peers` inbound peers; all on T, all
    with a record."""
    core = Core(d_out=0, d_high=d_high, peer_exchange=peer_exchange)
    core.router.subscribe(T, core.now)
    for n in range(peers):
        core.peers(1, first=n)
        core.router.describe_peer(f"p{n}", info(f"p{n}"), same_implementation=False, now=core.now)
        if n < d_high:
            core.gets(f"p{n}", graft=[T])
        core.subscribed(f"p{n}", T)
    core.sent()
    return core


def prunes(core: Core) -> dict[str, list[Prune]]:
    found: dict[str, list[Prune]] = core.sent_to(lambda control: control.prune)
    return found


# -- what we name -----------------------------------------------------------------------------------------


def test_a_graft_for_a_full_mesh_is_answered_with_others_of_the_topic() -> None:
    core = exchanging(11)
    core.gets("p10", graft=[T])
    ((name, (prune,)),) = prunes(core).items()
    assert (name, prune.topic, prune.backoff) == ("p10", T, 60)
    assert set(prune.peers) == {info(f"p{n}") for n in range(10)}
    assert core.router.counters()["px_given"] == 10


def test_at_most_sixteen_are_named() -> None:
    core = exchanging(40)
    core.gets("p39", graft=[T])
    ((_, (prune,)),) = prunes(core).items()
    assert len(prune.peers) == len(set(prune.peers)) == 16


def test_peers_pruned_from_an_oversized_mesh_get_suggestions() -> None:
    core = exchanging(9, d_high=9)
    for n in range(9, 11):
        core.peers(1, outbound=True, first=n)
        core.router.describe_peer(f"p{n}", info(f"p{n}"), same_implementation=False, now=core.now)
        core.gets(f"p{n}", graft=[T])
        core.subscribed(f"p{n}", T)
    core.sent()
    core.beat()
    pruned = prunes(core)
    assert len(pruned) == 5
    for name, (prune,) in pruned.items():
        assert set(prune.peers) == {info(f"p{n}") for n in range(11)} - {info(name)}


def test_it_is_off_unless_asked_for() -> None:
    core = exchanging(9, peer_exchange=False)
    core.gets("p8", graft=[T])
    core.prunes("p0")
    core.gets("p1", prune=[Prune(T, 60, OFFER)])
    assert prunes(core) == {"p8": [Prune(T, 60)]}
    assert core.router.take_px_offers() == []
    assert core.router.counters()["px_ignored"] == 1


def test_leaving_a_topic_names_other_peers_of_it() -> None:
    core = exchanging(9)
    core.router.unsubscribe(T, core.now)
    sent = prunes(core)
    assert set(sent) == {f"p{n}" for n in range(8)}
    for name, (prune,) in sent.items():
        assert prune.backoff == 5
        assert set(prune.peers) == {info(f"p{n}") for n in range(9)} - {info(name)}


def test_leaving_a_topic_suggests_no_peers_without_peer_exchange() -> None:
    core = exchanging(9, peer_exchange=False)
    core.router.unsubscribe(T, core.now)
    assert {prune for (prune,) in prunes(core).values()} == {Prune(T, 5)}


def test_a_graft_inside_a_back_off_gets_no_suggestions() -> None:
    core = exchanging(9)
    for _ in range(2):
        core.gets("p8", graft=[T])
    first, second = prunes(core)["p8"]
    assert len(first.peers) == 8
    assert second == Prune(T, 60)


def test_a_peer_with_a_negative_score_gets_no_suggestions() -> None:
    core = exchanging(10)
    core.router.reject(core.peer("p0"), core.topic(), core.now)
    core.router.reject(core.peer("p9"), core.topic(), core.now)
    core.gets("p9", graft=[T])
    assert prunes(core) == {"p9": [Prune(T, 60)]}
    core.beat()  # p0 leaves the mesh
    assert prunes(core) == {"p0": [Prune(T, 60)]}


def test_only_good_subscribers_with_a_record_are_named() -> None:
    core = exchanging(12)
    core.router.reject(core.peer("p1"), core.topic(), core.now)
    core.router.describe_peer("p2", None, same_implementation=False, now=core.now)
    core.router.remove_peer("p3", core.now)
    core.peers(1, U, first=20)
    core.router.describe_peer("p20", info("p20"), same_implementation=False, now=core.now)
    core.gets("p11", graft=[T])  # takes the place that p3 has left
    core.gets("p10", graft=[T])
    ((name, (prune,)),) = prunes(core).items()
    assert name == "p10"
    assert set(prune.peers) == {info(f"p{n}") for n in (0, 4, 5, 6, 7, 8, 9, 11)}


def test_the_choice_is_by_lot() -> None:
    book = ScoreBook(ScoreParams())
    peers = [Peer(f"p{n}", outbound=False, score=book.connect(f"p{n}", f"10.0.0.{n}")) for n in range(30)]
    for peer in peers:
        peer.info = info(peer.peer_id)
    chosen = {
        peers_to_offer(peers[0], peers, lambda one: book.score(one.score, 0.0), 4, Random(seed))
        for seed in range(20)
    }
    assert len(chosen) == 20
    assert all(info("p0") not in one for one in chosen)


# -- suggestions received ----------------------------------------------------------------------------------


def test_an_offer_of_a_mesh_peer_is_passed_on_once() -> None:
    core = exchanging(2)
    core.gets("p0", prune=[Prune(T, 60, OFFER), Prune(T, 60, OFFER)])
    assert core.router.take_px_offers() == [PxOffer("p0", T, OFFER)]
    assert core.router.take_px_offers() == []
    counters = core.router.counters()
    assert (counters["px_offered"], counters["px_ignored"]) == (2, 1)


def test_suggestions_from_outside_our_mesh_are_ignored() -> None:
    core = exchanging(9)
    core.gets("p8", prune=[Prune(T, 60, OFFER), Prune(U, 60, OFFER)])
    assert core.router.take_px_offers() == []


@pytest.mark.parametrize(("behaviour", "heard"), [(0.0, True), (1.0, False)])
def test_the_score_must_reach_the_threshold(behaviour: float, heard: bool) -> None:
    core = exchanging(2)
    core.router._s.scores.misbehaved(core.peer("p0").score, behaviour)
    core.gets("p0", prune=[Prune(T, 60, OFFER)])
    assert bool(core.router.take_px_offers()) is heard


def test_a_higher_threshold_can_be_set() -> None:
    core = Core(score=ScoreParams(accept_px_threshold=5.0), peer_exchange=True)
    core.router.subscribe(T, core.now)
    core.peers(2, T)
    for n in range(6):
        core.receive("p1", b"%d" % n)
    for name in ("p0", "p1"):
        core.gets(name, prune=[Prune(T, 60, OFFER)])
    assert [offer.peer for offer in core.router.take_px_offers()] == ["p1"]


def test_a_circle_of_grafts_and_prunes_without_back_off_offers_once() -> None:
    core = exchanging(1)
    for _ in range(1000):
        core.gets("p0", prune=[Prune(T, 0, OFFER)], graft=[T])
    assert len(core.router.take_px_offers()) == 1
    assert core.score("p0") < 0
