"""The plan of filter subscriptions against a kernel and peers that come, go, refuse and forget."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mapi_proc.subscriptions.filter_plan import AUDIT_S, BURST, DEBOUNCE_S, SETTLE_S, TOPICS_A_REQUEST
from mapi_proc.subscriptions.filter_state import Audit, Leave, Subscribe
from tests.unit.mapi_proc.subscriptions.filter_world import SHARDS, Peer, World

A, B = "/app/1/a/proto", "/app/1/b/proto"


def world(*peers: str) -> World:
    made = World()
    for name in peers:
        made.add_peer(name)
    return made


def requests(made: World) -> list[Subscribe]:
    return [action for action in made.log if isinstance(action, Subscribe)]


def test_two_of_three_peers_are_asked_for_everything_at_once() -> None:
    made = world("p", "q", "r")
    made.want(0, {A, B})
    made.run(1.0)
    asked = requests(made)
    assert len(asked) == 2
    assert all(action.topics == (A, B) for action in asked)
    made.check_settled()


def test_nothing_is_asked_before_the_lease_and_the_first_audit() -> None:
    made = world("p")
    made.plan.want({0: {A}})
    made.now = 1.0
    assert made.step() == [Audit()]
    made.answer(Audit())
    assert made.step() == [], "no lease yet"
    made.wanted = {0: {A}}
    made.lease()
    assert [type(action) for action in made.step()] == [Subscribe]


def test_a_lost_peer_is_replaced_by_the_third_at_once() -> None:
    made = world("p", "q", "r")
    made.want(0, {A})
    made.run(1.0)
    first, second = made.holders(0, A)
    made.lose_peer(first)
    assert made.plan.strength(0) == 1
    (action,) = made.step()
    assert isinstance(action, Subscribe)
    assert action.peer not in (first, second)
    made.run(0.0)
    made.check_settled()


def test_a_peer_that_forgot_is_found_by_the_kernels_count_and_asked_again() -> None:
    made = world("p", "q")
    made.want(0, {A})
    made.run(1.0)
    made.log.clear()
    made.forget("p")
    made.run(2.0)
    assert [type(action) for action in made.log] == [Audit, Subscribe]
    made.check_settled()


def test_after_a_restart_of_the_kernel_everything_is_asked_for_again() -> None:
    made = world("p", "q")
    made.want(0, {A})
    made.want(1, {B})
    made.run(1.0)
    made.go_down()
    assert made.plan.wake_at() is None
    made.come_back(restarted=True)
    assert made.plan.strength(0) == 0
    made.run(3.0)
    made.check_settled()


def test_after_a_restart_of_mapi_what_is_held_is_taken_over() -> None:
    made = world("p", "q", "r")
    made.want(0, {A})
    made.run(1.0)
    made.log.clear()
    made.restart_mapi()
    made.run(AUDIT_S / 2)
    assert made.log == [Audit()]
    assert made.plan.strength(0) == 2


def test_a_wish_that_outlived_a_restart_and_its_peers_is_taken_back() -> None:
    made = world("p")
    made.want(0, {A, B})
    made.run(1.0)
    made.wanted = {0: {A}}
    made.lose_peer("p")
    made.restart_mapi()
    made.peers["p"].connected = True
    made.list_peers()
    made.run(5.0)
    assert made.strength(0) == 1, "else the shard would count as not covered for ever"
    assert Leave(0, ()) in made.log
    made.check_settled()


def test_another_consumers_wish_that_no_peer_holds_costs_one_new_beginning_and_no_flood() -> None:
    made = world("p")
    made.want(0, {A})
    made.run(1.0)
    made.wishes[0].add("/another/1/consumer/proto")
    made.count()
    made.log.clear()
    made.strength = lambda shard: 0  # type: ignore[method-assign]
    made.count()
    made.run(20.0)
    assert sum(isinstance(action, Leave) for action in made.log) <= 1
    assert len(made.log) < 10


def test_no_longer_wanted_is_taken_back_everywhere_with_one_request() -> None:
    made = world("p", "q")
    made.want(0, {A, B})
    made.run(1.0)
    made.log.clear()
    made.want(0, {A})
    made.run(1.0)
    assert made.log == [Leave(0, (B,))]
    made.check_settled()


def test_many_topics_go_in_portions_and_a_full_peer_is_made_up_for() -> None:
    made = world("p", "q", "r")
    made.peers["p"].capacity = 150
    made.want(0, {f"/app/1/t{n}/proto" for n in range(450)})
    made.run(120.0)
    assert all(len(action.topics) <= TOPICS_A_REQUEST for action in requests(made))
    made.check_settled()


def test_a_flood_of_changes_is_acted_on_once_a_second() -> None:
    made = world("p")
    topics: set[str] = set()
    for number in range(200):
        topics = topics | {f"/app/1/t{number}/proto"}
        made.want(0, topics)
        made.run(0.05)
    asked = requests(made)
    assert len(asked) <= BURST + 10.0 / DEBOUNCE_S + 2
    made.run(2.0)
    made.check_settled()


def test_a_single_change_does_not_wait() -> None:
    made = world("p")
    made.want(0, {A})
    made.run(10.0)
    made.want(0, {A, B})
    made.run(2 * SETTLE_S)
    assert made.holders(0, B) == ["p"]


def test_a_peer_that_hangs_delays_no_other() -> None:
    made = world("p", "q")
    made.want(0, {A})
    made.now = 1.0
    made.step()
    made.answer(Audit())
    first, second = made.step()
    made.answer(second)
    made.want(1, {B})
    made.now += 1.0
    (other,) = made.step()
    assert isinstance(other, Subscribe)
    assert isinstance(first, Subscribe)
    assert (other.shard, other.peer != first.peer) == (1, True)
    made.answer(other)
    assert made.step() == []
    assert not made.plan.lacks({0: [A], 1: [B]})


def test_a_failing_peer_is_asked_less_and_less_often_and_never_given_up() -> None:
    made = world("p")
    made.peers["p"].refuses = True
    made.want(0, {A})
    made.run(300.0)
    assert 5 <= len(requests(made)) <= 15
    made.peers["p"].refuses = False
    made.run(80.0)
    made.check_settled()


def test_no_peer_is_blamed_while_we_are_offline() -> None:
    made = world("p")
    made.want(0, {A})
    made.now = 1.0
    made.step()
    made.answer(Audit())
    (action,) = made.step()
    made.lose_peer("p")
    made.answer(action)
    made.run(10.0)
    assert len(requests(made)) == 1, "there is no peer to ask"
    made.peers["p"].connected = True
    made.list_peers()
    made.run(0.1)
    made.check_settled()


def test_topics_that_had_no_time_to_be_held_are_no_trouble_yet() -> None:
    made = world()
    made.want(0, {A})
    made.run(5.0)
    assert made.plan.strength(0) is None
    made.run(10.0)
    assert made.plan.strength(0) == 0


def test_a_restarted_kernel_that_counts_only_what_it_was_asked_for_is_seen_through() -> None:
    made = world("p")
    topics = {f"/app/1/t{n:03}/proto" for n in range(150)}
    made.want(0, topics)
    made.run(1.0)
    made.go_down()
    made.come_back(restarted=True)
    made.now += 2.0
    made.step()
    made.answer(Audit())
    (first,) = made.step()
    made.answer(first)
    assert made.strength(0) == 1, "the kernel thinks that all is well"
    assert made.plan.exposed(0)
    made.run(1.0)
    assert not made.plan.exposed(0)


NAMES = [f"peer{n}" for n in range(5)]
TOPICS = [f"/app/1/t{n}/proto" for n in range(6)]


class Churn(RuleBasedStateMachine):
    """Whatever happens: once it has stopped happening, wanted is held, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(name=st.sampled_from(NAMES), refuses=st.booleans())
    def peer(self, name: str, refuses: bool) -> None:
        known = self.world.peers.get(name)
        if known is None or not known.connected:
            self.world.add_peer(name, Peer(refuses=refuses))
        else:
            self.world.lose_peer(name)

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        self.world.forget(name)

    @rule(shard=st.integers(0, SHARDS - 1), topics=st.sets(st.sampled_from(TOPICS)))
    def want(self, shard: int, topics: set[str]) -> None:
        self.world.want(shard, {f"{topic}-{shard}" for topic in topics})

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 7.0, 40.0]))
    def time(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.step()

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.world.answer(data.draw(st.sampled_from(self.world.under_way)))
        self.world.step()

    @precondition(lambda self: self.world.under_way)
    @rule(data=st.data(), blame=st.booleans())
    def lose_answer(self, data: st.DataObject, blame: bool) -> None:
        action = data.draw(st.sampled_from(self.world.under_way))
        self.world.under_way.remove(action)
        self.world.plan.failed(action, blame=blame and isinstance(action, Subscribe))

    @precondition(lambda self: self.world.up)
    @rule()
    def kernel_down(self) -> None:
        self.world.go_down()

    @precondition(lambda self: not self.world.up)
    @rule(restarted=st.booleans())
    def kernel_back(self, restarted: bool) -> None:
        self.world.come_back(restarted=restarted)

    @precondition(lambda self: self.world.up)
    @rule()
    def mapi_restarts(self) -> None:
        self.world.restart_mapi()

    @invariant()
    def requests_are_bounded(self) -> None:
        peers = [a.peer for a in self.world.under_way if isinstance(a, Subscribe)]
        assert len(peers) == len(set(peers)), "one request to a peer at a time"

    def teardown(self) -> None:
        made = self.world
        if not made.up:
            made.come_back(restarted=False)
        made.run(200.0)
        made.check_settled()
        made.log.clear()
        made.run(10 * AUDIT_S)
        rest = [a for a in made.log if not (isinstance(a, Subscribe) and made.peers[a.peer].refuses)]
        assert {type(action) for action in rest} <= {Audit}, "and then there is peace"
        assert len(rest) <= 11


TestChurn = Churn.TestCase
TestChurn.settings = settings(max_examples=100, stateful_step_count=40)
