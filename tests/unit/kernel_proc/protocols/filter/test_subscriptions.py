"""The table of subscribers: nwaku's answers, limits, and a model."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kernel_proc.protocols.filter.codec import (
    FilterRequest,
    FilterResponse,
    RequestType,
    decode_request,
    decode_response,
)
from kernel_proc.protocols.filter.subscriptions import FilterLimits, Subscriptions
from tests.unit.kernel_proc.protocols.filter.support import PAIRS

SHARD = "/waku/2/rs/1/0"


class House:
    def __init__(self, limits: FilterLimits | None = None) -> None:
        self.table = Subscriptions(limits or FilterLimits())
        self.now = 0.0

    def ask(
        self, kind: int, peer: str = "p", contents: Iterable[str] = (), topic: str | None = SHARD
    ) -> FilterResponse:
        return self.table.handle(peer, FilterRequest("id", kind, topic, tuple(contents)), self.now)

    def subscribe(self, *contents: str, peer: str = "p") -> int:
        return self.ask(RequestType.SUBSCRIBE, peer, contents).status

    def unsubscribe(self, *contents: str, peer: str = "p") -> int:
        return self.ask(RequestType.UNSUBSCRIBE, peer, contents).status


def test_a_session_with_nwaku_is_answered_word_for_word() -> None:
    house = House()
    assert len(PAIRS) == 7
    for asked, answered in PAIRS:
        assert house.table.handle("p", decode_request(asked), 0.0) == decode_response(answered)


def test_subscriptions_are_found() -> None:
    house = House()
    assert house.subscribe("a", "b") == 200
    assert house.subscribe("b", "c", peer="q") == 200
    assert list(house.table.subscribers(SHARD, "b")) == ["p", "q"]
    assert list(house.table.subscribers(SHARD, "a")) == ["p"]
    assert list(house.table.subscribers("/waku/2/rs/1/1", "a")) == []
    assert house.unsubscribe("b") == 200
    assert list(house.table.subscribers(SHARD, "b")) == ["q"]
    assert house.table.criteria_of("p") == [(SHARD, "a")]
    assert house.table.criteria_of("unknown") == []


@pytest.mark.parametrize("kind", [RequestType.SUBSCRIBE, RequestType.UNSUBSCRIBE])
@pytest.mark.parametrize(("topic", "contents"), [(None, ["a"]), ("", ["a"]), (SHARD, [])])
def test_both_topics_are_needed(kind: RequestType, topic: str | None, contents: list[str]) -> None:
    response = House().ask(kind, contents=contents, topic=topic)
    assert response == FilterResponse(
        "id", 400, "BAD_REQUEST: pubsubTopic and contentTopics must be specified"
    )


@pytest.mark.parametrize("kind", [RequestType.SUBSCRIBE, RequestType.UNSUBSCRIBE])
def test_a_hundred_content_topics_and_no_more(kind: RequestType) -> None:
    house = House()
    assert house.subscribe(*map(str, range(100))) == 200
    response = house.ask(kind, contents=map(str, range(101)))
    assert response == FilterResponse("id", 400, "BAD_REQUEST: exceeds maximum content topics: 100")


def test_criteria_of_one_peer_are_bounded_and_repeats_count() -> None:
    house = House(FilterLimits(max_criteria=3))
    assert house.subscribe("a", "b") == 200
    response = house.ask(RequestType.SUBSCRIBE, contents=["a", "b"])
    assert response.status == 503
    assert response.description == ("SERVICE_UNAVAILABLE: peer has reached maximum number of filter criteria")
    assert house.subscribe("a") == 200
    assert house.subscribe("d", "e", "f", "g", peer="q") == 503
    assert "q" not in house.table


def test_the_text_of_criteria_is_bounded() -> None:
    house = House(FilterLimits(max_text=100))
    assert house.subscribe("x" * 80) == 200
    assert house.subscribe("y") == 503
    assert house.unsubscribe("x" * 80) == 200
    assert house.subscribe("y" * 80) == 200


def test_subscribers_are_bounded() -> None:
    house = House(FilterLimits(max_peers=2))
    assert house.subscribe("a", peer="1") == house.subscribe("a", peer="2") == 200
    response = house.ask(RequestType.SUBSCRIBE, "3", ["a"])
    assert response.status == 503
    assert response.description == (
        "SERVICE_UNAVAILABLE: node has reached maximum number of subscriptions: 2"
    )
    assert house.subscribe("b", peer="1") == 200
    assert house.ask(RequestType.UNSUBSCRIBE_ALL, "2").status == 200
    assert house.subscribe("a", peer="3") == 200


def test_a_peer_without_subscriptions_gets_404() -> None:
    house = House()
    for kind in (RequestType.PING, RequestType.UNSUBSCRIBE, RequestType.UNSUBSCRIBE_ALL):
        response = house.ask(kind, contents=["a"])
        assert response == FilterResponse("id", 404, "NOT_FOUND: peer has no subscriptions")
    assert house.ask(9).status == 400


def test_unsubscribing_from_unknown_topics_still_removes_the_rest() -> None:
    house = House()
    house.subscribe("a", "b")
    assert house.unsubscribe("a", "z") == 404
    assert house.table.criteria_of("p") == [(SHARD, "b")]
    assert house.unsubscribe("b") == 200
    assert "p" not in house.table


@pytest.mark.parametrize("kind", [RequestType.PING, RequestType.SUBSCRIBE, RequestType.UNSUBSCRIBE])
def test_the_silent_are_idle_and_every_request_is_a_sign_of_life(kind: RequestType) -> None:
    house = House()
    house.subscribe("a", "b")
    house.subscribe("a", peer="silent")
    house.now = 299.0
    house.ask(kind, contents=["a"])
    house.now = 301.0
    assert house.table.idle(house.now) == ["silent"]
    house.now = 600.0
    assert set(house.table.idle(house.now)) == {"p", "silent"}


class Model(RuleBasedStateMachine):
    """The table against a plain set of triples."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(FilterLimits(max_peers=3, max_criteria=4))
        self.held: set[tuple[str, str, str]] = set()

    peers = st.sampled_from("pqrs")
    topics = st.sampled_from(["t", "u"])
    several = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5)

    def of(self, peer: str) -> set[tuple[str, str, str]]:
        return {item for item in self.held if item[0] == peer}

    @rule(peer=peers, topic=topics, contents=several)
    def subscribe(self, peer: str, topic: str, contents: list[str]) -> None:
        status = self.house.ask(RequestType.SUBSCRIBE, peer, contents, topic).status
        full = not self.of(peer) and len({item[0] for item in self.held}) == 3
        full = full or len(self.of(peer)) + len(set(contents)) > 4
        assert status == (503 if full else 200)
        if not full:
            self.held |= {(peer, topic, content) for content in contents}

    @rule(peer=peers, topic=topics, contents=several)
    def unsubscribe(self, peer: str, topic: str, contents: list[str]) -> None:
        status = self.house.ask(RequestType.UNSUBSCRIBE, peer, contents, topic).status
        gone = {(peer, topic, content) for content in contents}
        assert status == (200 if gone <= self.held else 404)
        self.held -= gone

    @rule(peer=peers)
    def unsubscribe_all(self, peer: str) -> None:
        status = self.house.ask(RequestType.UNSUBSCRIBE_ALL, peer).status
        assert status == (200 if self.of(peer) else 404)
        self.held -= self.of(peer)

    @rule(peer=peers)
    def ping(self, peer: str) -> None:
        assert self.house.ask(RequestType.PING, peer).status == (200 if self.of(peer) else 404)

    @rule(peer=peers)
    def remove(self, peer: str) -> None:
        assert self.house.table.remove(peer) is bool(self.of(peer))
        self.held -= self.of(peer)

    @invariant()
    def same(self) -> None:
        table = self.house.table
        assert table.criteria == len(self.held)
        assert set(table.peers()) == {item[0] for item in self.held}
        for topic in ("t", "u"):
            for content in "abcdef":
                expected = {peer for peer, *rest in self.held if rest == [topic, content]}
                assert set(table.subscribers(topic, content)) == expected


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30)
