"""What consumers want and what peers hold for them, against a plain model."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kernel_proc.protocols.filter.interests import Interests
from tests.support.steps import lines_run


def test_the_last_consumer_leaves_an_orphan() -> None:
    interests = Interests()
    interests.add("x", "p", "t", ["a", "b"])
    interests.add("y", "p", "t", ["a"])
    assert interests.release("x", "t", ["a", "b"]) == ["p"]
    assert interests.orphans("p") == {"t": ["b"]}
    assert not interests.is_all_orphaned("p")
    assert interests.holds("p", "t", "b")
    interests.removed("p", {"t": ["a", "b"]})
    assert not interests.holds("p", "t", "b")
    assert interests.holds("p", "t", "a")  # a consumer wants it
    interests.release("y", "t", ["a"])
    assert interests.is_all_orphaned("p")
    interests.removed("p", interests.orphans("p"))
    assert not interests
    assert len(interests) == 0


def test_strength_is_that_of_the_weakest_content_topic() -> None:
    interests = Interests()
    assert interests.strength("t") == 0
    interests.add("x", "p", "t", ["a", "b"])
    interests.add("x", "q", "t", ["a"])
    assert interests.strength("t") == 1
    interests.add("x", "q", "t", ["b"])
    assert interests.strength("t") == 2
    assert interests.lose("p") == ["t"]
    assert interests.strength("t") == 1
    interests.lose("q")
    assert interests.strength("t") == 0
    assert interests.wishes("x", "t") == ["a", "b"]  # a wish outlives its peers


def test_a_wish_ends_with_the_last_peer_that_holds_it() -> None:
    interests = Interests()
    for peer in ("p", "q"):
        interests.add("x", peer, "t", ["a"])
    assert interests.release("x", "t", ["a"], "p") == ["p"]
    assert interests.wishes("x", "t") == ["a"]
    interests.lose("q")
    assert interests.release("x", "t", ["a"], "q") == []
    assert interests.parties() == set()


def test_expected_subscriptions_are_orphans() -> None:
    interests = Interests()
    interests.expect("p", "t", ["a"])
    assert interests.holds("p", "t", "a")
    assert interests.topics_of("p", "a") == ["t"]
    assert interests.missing("p", "t", ["a", "b", "a"]) == ["a", "b"]
    assert interests.holders("t") == {}
    assert interests.peers_for("x") == []


def test_many_content_topics_do_not_hold_up_the_loop() -> None:
    """Health asks for the strength at every change of the mesh: the answer must not cost a look at each of
    thousands of content topics."""
    interests = Interests()
    contents = [f"/app/1/topic-{number}/proto" for number in range(20_000)]
    for peer in "pqr":
        interests.add("x", peer, "t", contents)
    strengths: list[int] = []
    assert lines_run(lambda: strengths.append(interests.strength("t"))) < 10 * len(contents)
    assert lines_run(lambda: strengths.append(interests.strength("t"))) < 20, "while nothing changes"
    assert lines_run(lambda: strengths.append(interests.has_orphans("p"))) < 20
    assert strengths == [3, 3, 0]


class Model(RuleBasedStateMachine):
    consumers = st.sampled_from("xyz")
    peers = st.sampled_from("pq")
    topics = st.sampled_from("tu")
    several = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)

    def __init__(self) -> None:
        super().__init__()
        self.interests = Interests()
        self.wanted: set[tuple[str, str, str]] = set()
        self.held: dict[tuple[str, str, str], set[str]] = {}

    @rule(x=consumers, p=peers, t=topics, contents=several)
    def add(self, x: str, p: str, t: str, contents: list[str]) -> None:
        self.interests.add(x, p, t, contents)
        for content in contents:
            self.wanted.add((x, t, content))
            self.held.setdefault((p, t, content), set()).add(x)

    @rule(p=peers, t=topics, contents=several)
    def expect(self, p: str, t: str, contents: list[str]) -> None:
        self.interests.expect(p, t, contents)
        for content in contents:
            self.held.setdefault((p, t, content), set())

    @rule(x=consumers, p=st.none() | peers, t=topics, contents=several)
    def release(self, x: str, p: str | None, t: str, contents: list[str]) -> None:
        concerned = self.interests.release(x, t, contents, p)
        expected = set()
        for (peer, topic, content), consumers in self.held.items():
            if topic == t and content in contents and p in (None, peer) and x in consumers:
                consumers.discard(x)
                expected.add(peer)
        assert set(concerned) == expected
        for content in contents:
            if not any(x in who for (_, topic, c), who in self.held.items() if (topic, c) == (t, content)):
                self.wanted.discard((x, t, content))

    @rule(p=peers)
    def take_back(self, p: str) -> None:
        self.interests.removed(p, self.interests.orphans(p))
        self.held = {key: who for key, who in self.held.items() if who or key[0] != p}

    @rule(p=peers)
    def lose(self, p: str) -> None:
        topics = self.interests.lose(p)
        assert set(topics) == {topic for peer, topic, _ in self.held if peer == p}
        self.held = {key: who for key, who in self.held.items() if key[0] != p}

    @invariant()
    def same(self) -> None:
        interests = self.interests
        assert len(interests) == len(self.wanted)
        assert bool(interests) is bool(self.held)
        assert interests.parties() == {(x, t) for x, t, _ in self.wanted}
        assert set(interests.wanted()) == {t for _, t, _ in self.wanted}
        for t in "tu":
            wanted = {content for _, topic, content in self.wanted if topic == t}
            counts = [sum(bool(self.held.get((p, t, content))) for p in "pq") for content in wanted]
            assert interests.strength(t) == min(counts, default=0)
            for p in "pq":
                for content in "abc":
                    assert interests.holds(p, t, content) is ((p, t, content) in self.held)
        for p in "pq":
            assert (p in interests) is any(peer == p for peer, _, _ in self.held)
            orphans = {(t, c) for t, contents in interests.orphans(p).items() for c in contents}
            assert orphans == {(t, c) for (peer, t, c), who in self.held.items() if peer == p and not who}
            assert interests.has_orphans(p) is bool(orphans)
            assert interests.is_all_orphaned(p) is not any(
                who for (peer, _, _), who in self.held.items() if peer == p
            )
        for x in "xyz":
            assert set(interests.wanted_topics(x)) == {t for who, t, _ in self.wanted if who == x}
            for t in "tu":
                assert set(interests.wishes(x, t)) == {
                    c for who, topic, c in self.wanted if (who, topic) == (x, t)
                }
                assert interests.new_wishes(x, t, "abc") == 3 - len(interests.wishes(x, t))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30)
