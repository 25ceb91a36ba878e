"""IHAVE, IWANT, IDONTWANT, the message cache, and the way of a message through the core."""

from __future__ import annotations

from hashlib import sha256

import pytest

from kernel_proc.relay.cache import MessageCache
from kernel_proc.relay.rpc import Control, IHave
from kernel_proc.relay.rpc_writer import MAX_CONTROL, encode_control
from tests.unit.kernel_proc.relay.core import Core, T, U


def ids(count: int, start: int = 0) -> list[bytes]:
    return [sha256(b"%d" % n).digest() for n in range(start, start + count)]


def meshed(peers: int = 3, **gossip: int) -> Core:
    core = Core(seed=1, score=None, **gossip)
    core.router.subscribe(T, core.now)
    core.peers(peers, T)
    core.sent()
    return core


# -- messages ----------------------------------------------------------------------------------------------


def test_a_message_is_forwarded_to_the_mesh_but_not_back() -> None:
    core = meshed(3)
    assert set(core.receive("p0", b"m") or ()) == {"p1", "p2"}
    assert core.receive("p1", b"m") is None


def test_a_rejected_copy_does_not_keep_the_valid_one_out() -> None:
    core = meshed(2)
    message_id = sha256(b"m").digest()
    topic = core.topic()
    assert core.router.screen(topic, message_id)
    core.router.reject(core.peer("p0"), topic, core.now)
    assert core.receive("p1", b"m") == ["p0"]


def test_the_same_bytes_on_another_topic_are_another_message() -> None:
    core = meshed(1)
    core.router.subscribe(U, core.now)
    assert core.receive("p0", b"m", T) is not None
    assert core.receive("p0", b"m", U) is not None
    assert core.receive("p0", b"m", U) is None


def test_seen_messages_are_forgotten_after_their_time_and_not_before() -> None:
    core = meshed(1)
    core.receive("p0", b"m")
    core.beat(120)
    assert core.receive("p0", b"m") is None
    core.beat(121)
    assert core.receive("p0", b"m") is not None


def test_leaving_a_topic_keeps_its_seen_cache() -> None:
    core = meshed(1)
    core.receive("p0", b"m")
    core.router.unsubscribe(T, core.now)
    core.beat(10)
    core.router.subscribe(T, core.now)
    assert core.receive("p0", b"m") is None


def test_a_topic_that_was_left_costs_nothing_once_its_ids_are_forgotten() -> None:
    core = meshed(1)
    core.receive("p0", b"m")
    core.router.unsubscribe(T, core.now)
    core.beat(241)
    assert core.router._s.topics == {}


def test_publishing_again_is_a_duplicate_and_can_be_forced() -> None:
    core = meshed(2)
    assert not core.publish(b"m").duplicate
    again = core.publish(b"m")
    assert (again.duplicate, list(again.targets)) == (True, [])
    forced = core.publish(b"m", force=True)
    assert (forced.duplicate, set(forced.targets)) == (True, {"p0", "p1"})
    assert core.receive("p0", b"m") is None


def test_publishing_a_received_message_is_a_duplicate() -> None:
    core = meshed(2)
    core.receive("p0", b"m")
    assert core.publish(b"m").duplicate


# -- IHAVE out ---------------------------------------------------------------------------------------------


def test_recent_ids_are_offered_to_peers_outside_the_mesh_for_three_heartbeats() -> None:
    core = meshed(20)
    core.receive("p0", b"m")
    core.sent()
    message_id = sha256(b"m").digest()
    for beat in range(6):
        core.beat()
        offers = core.sent_to(lambda c: c.ihave)
        if beat < 3:
            assert len(offers) == 6
            assert not offers.keys() & core.mesh()
            assert all(o == [(T, [message_id])] for o in offers.values())
        else:
            assert offers == {}


def test_a_peer_is_offered_what_was_forwarded_before_its_graft_arrived() -> None:
    core = meshed(5)
    assert core.mesh() == {"p0", "p1", "p2", "p3"}
    assert "p4" not in (core.receive("p0", b"m") or ())
    core.gets("p4", graft=[T])
    core.gets("p1", graft=[T])  # crossed ours: it may have counted on us before we sent it
    core.sent()
    core.receive("p0", b"later")  # goes to both as members of the mesh: an offer would bring it twice
    core.beat()
    offer = [IHave(T, [sha256(b"m").digest()])]
    assert core.sent_to(lambda c: c.ihave) == {"p1": offer, "p4": offer}
    core.beat()
    assert core.sent_to(lambda c: c.ihave) == {}, "once"


def test_gossip_reaches_a_quarter_of_many_peers() -> None:
    core = meshed(86)
    core.receive("p0", b"m")
    core.beat()
    assert len(core.sent_to(lambda c: c.ihave)) == 20


def test_peers_below_the_gossip_threshold_get_no_gossip() -> None:
    core = meshed(5)
    assert core.mesh() == {"p0", "p1", "p2", "p3"}
    for _ in range(2):
        core.router.reject(core.peer("p4"), core.topic(), core.now)  # -400
    core.receive("p0", b"m")
    core.beat()
    assert core.sent_to(lambda c: c.ihave) == {}


def test_no_more_ids_are_offered_than_fit_into_the_rpcs_that_a_peer_heeds() -> None:
    core = meshed(5, history_bytes=10**9)
    for n in range(6000):
        core.receive("p0", b"%d" % n)
    core.sent()
    core.beat()
    (offer,) = core.sent_to(lambda c: c.ihave).values()
    assert len(set(offer[0].message_ids)) == 4500
    control = Control()
    control.ihave = offer
    frames = encode_control(control, 153_600)
    assert len(frames) <= core.params.max_ihave_messages
    assert all(len(frame) <= MAX_CONTROL + 3 for frame in frames)  # with its length prefix


# -- IHAVE in, IWANT out -----------------------------------------------------------------------------------


def test_unknown_ids_are_requested() -> None:
    core = meshed(2)
    core.receive("p1", b"0")
    core.sent()
    core.ihave("p0", ids(3))
    assert core.sent_to(lambda c: c.iwant) == {"p0": ids(2, 1)}


def test_an_offer_is_taken_up_once_at_a_time_and_again_if_nothing_came() -> None:
    core = meshed(2)
    core.ihave("p0", ids(1))
    core.ihave("p1", ids(1))
    assert core.sent_to(lambda c: c.iwant) == {"p0": ids(1)}
    core.beat()
    core.ihave("p1", ids(1))
    assert core.sent_to(lambda c: c.iwant) == {"p1": ids(1)}


def test_ten_offers_of_one_peer_are_read_per_heartbeat() -> None:
    core = meshed(2)
    for n in range(12):
        core.ihave("p0", ids(1, n))
    assert core.sent_to(lambda c: c.iwant) == {"p0": ids(10)}
    assert core.router.counters()["ihave_ignored"] == 2
    core.beat()
    core.ihave("p0", ids(1, 11))
    assert core.sent_to(lambda c: c.iwant) == {"p0": ids(1, 11)}


def test_five_thousand_ids_are_asked_of_one_peer_per_heartbeat() -> None:
    core = meshed(2)
    core.ihave("p0", ids(3000))
    core.ihave("p0", ids(3000, 3000))
    assert len(set(core.sent_to(lambda c: c.iwant)["p0"])) == 5000


def test_offers_of_topics_we_are_not_on_and_of_bad_peers_are_ignored() -> None:
    core = meshed(2)
    core.ihave("p0", ids(1), topic=U)
    for _ in range(2):
        core.router.reject(core.peer("p1"), core.topic(), core.now)
    core.ihave("p1", ids(1))
    assert core.sent_to(lambda c: c.iwant) == {}


def test_a_broken_promise_costs_and_a_kept_one_does_not() -> None:
    core = meshed(3)
    core.ihave("p0", [sha256(b"kept").digest()])
    core.ihave("p1", [sha256(b"broken").digest()])
    core.receive("p2", b"kept")  # from whomever
    core.beat(4)
    assert core.score("p0") >= 0
    assert core.router.score_parts("p1", core.now).behaviour == pytest.approx(-10)  # type: ignore[union-attr]
    core.beat(4)
    assert core.router.counters()["promises_broken"] == 1


def test_an_invalid_message_keeps_the_promise_too() -> None:
    core = meshed(1)
    core.ihave("p0", [sha256(b"bad").digest()])
    core.router.screen(core.topic(), sha256(b"bad").digest())
    core.beat(4)
    assert core.router.counters()["promises_broken"] == 0


def test_a_peer_that_left_breaks_no_promise() -> None:
    core = meshed(1)
    core.ihave("p0", ids(5))
    core.router.remove_peer("p0", core.now)
    core.peers(1, T)
    core.beat(4)
    assert core.router.counters()["promises_broken"] == 0


# -- IWANT in ----------------------------------------------------------------------------------------------


def test_cached_messages_are_sent_on_request_three_times_per_peer() -> None:
    core = meshed(2)
    core.publish(b"0")
    core.sent()
    for _ in range(5):
        core.gets("p0", iwant=ids(2))
    core.gets("p1", iwant=ids(1))
    sent = core.sent()
    assert [m.data for m in sent["p0"].messages] == [b"0"] * 3
    assert [m.data for m in sent["p1"].messages] == [b"0"]


def test_requests_have_a_byte_budget_per_heartbeat() -> None:
    core = meshed(2, iwant_bytes=2500)
    for n in range(5):
        core.publish(bytes([n]) * 1000)
    core.sent()
    core.gets("p0", iwant=[sha256(bytes([n]) * 1000).digest() for n in range(5)])
    assert len(core.sent()["p0"].messages) == 2
    core.beat()
    core.sent()
    core.gets("p0", iwant=[sha256(bytes([n]) * 1000).digest() for n in range(2, 5)])
    assert len(core.sent()["p0"].messages) == 2


def test_messages_leave_the_cache_after_six_heartbeats() -> None:
    core = meshed(2)
    core.publish(b"0")
    core.beat(5)
    core.sent()
    core.gets("p0", iwant=ids(1))
    assert [m.data for m in core.sent()["p0"].messages] == [b"0"]
    core.beat(1)
    core.sent()
    core.gets("p0", iwant=ids(1))
    assert core.sent() == {}


def test_bad_peers_get_nothing() -> None:
    core = meshed(2)
    core.publish(b"0")
    core.sent()
    for _ in range(2):
        core.router.reject(core.peer("p0"), core.topic(), core.now)
    core.gets("p0", iwant=ids(1))
    assert core.sent() == {}


def test_the_cache_is_bounded_in_bytes_and_drops_the_oldest() -> None:
    cache = MessageCache(length=6, gossip=3, max_bytes=1000)
    for n in range(20):
        cache.put(b"t", "t", bytes([n]), bytes(100))
    cache.put(b"t", "t", bytes([19]), bytes(100))
    assert cache.bytes <= 1000
    assert len(cache) == 10
    assert cache.get(bytes([9])) is None
    assert cache.get(bytes([10])) is not None
    assert cache.evicted == 10
    for _ in range(6):
        cache.shift()
    assert (len(cache), cache.bytes) == (0, 0)
    assert cache.gossip_ids("t") == []


# -- IDONTWANT ---------------------------------------------------------------------------------------------


def test_a_large_message_is_announced_to_the_rest_of_the_mesh() -> None:
    core = meshed(3)
    core.receive("p0", bytes(512))
    assert core.sent_to(lambda c: c.idontwant) == {}
    core.receive("p0", bytes(513))
    wanted = [sha256(bytes(513)).digest()]
    assert core.sent_to(lambda c: c.idontwant) == {"p1": wanted, "p2": wanted}


def test_idontwant_suppresses_forwarding() -> None:
    core = meshed(3)
    core.gets("p1", idontwant=[sha256(b"m").digest()])
    assert core.receive("p0", b"m") == ["p2"]
    assert core.router.counters()["idontwant_saved"] == 1


def test_idontwant_is_kept_for_some_heartbeats_and_bounded() -> None:
    core = meshed(2, max_idontwant=10)
    core.gets("p1", idontwant=ids(50))
    assert len(core.peer("p1").dont_want) == 10
    core.beat(2)
    assert not core.peer("p1").wants(ids(1)[0])
    core.beat(6)
    assert core.peer("p1").wants(ids(1)[0])
