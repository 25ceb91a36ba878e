"""Subscriptions by content topic and the shards they need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.hello import NetworkInfo
from ipc_schema.topics import autoshard
from mapi_proc.network import AppNetwork
from mapi_proc.subscriptions import (
    ALREADY_UNSUBSCRIBED,
    NeverSubscribe,
    SubscribeOnFirstSend,
    SubscriptionTable,
)

T1, T2 = "/toychat/2/huilong/proto", "/toychat2/2/x/proto"  # shards 3 and 6 of 8


NETWORK = AppNetwork(NetworkInfo(cluster=1, shard_count=8, max_message_size=153_600))


class App(str):
    """A subscriber that is its name."""

    __slots__ = ()
    durable = False


def table(max_topics: int = 100) -> SubscriptionTable[App]:
    return SubscriptionTable(NETWORK.shard_of, max_topics=max_topics)


def test_the_first_topic_gains_its_shard_and_the_last_loses_it() -> None:
    subs = table()
    assert subs.subscribe(App("a"), [T1, T2]).shards_gained == {3, 6}
    assert subs.subscribe(App("b"), [T1]).shards_gained == set()
    assert subs.routes[T1].subscribers == ("a", "b")
    assert subs.unsubscribe(App("a"), [T1]).shards_lost == set()
    assert subs.unsubscribe(App("b"), [T1]).shards_lost == {3}
    assert T1 not in subs.routes
    assert subs.shards == {6}


def test_errors_are_per_topic_and_the_others_take_effect() -> None:
    subs = table()
    change = subs.subscribe(App("a"), ["nonsense", T1, "/1/app/1/name/proto", "/a/1/" + "x" * 300 + "/proto"])
    assert change.changed == [T1]
    assert "must start with slash" in change.errors["nonsense"]
    assert "Generation > 0" in change.errors["/1/app/1/name/proto"]
    assert len(change.errors) == 3
    assert subs.unsubscribe(App("a"), [T2, T1]).errors == {T2: ALREADY_UNSUBSCRIBED}


def test_too_many_topics() -> None:
    subs = table(max_topics=1)
    change = subs.subscribe(App("a"), [T1, T2])
    assert change.changed == [T1]
    assert change.errors == {T2: "too many content topics: at most 1"}
    assert subs.subscribe(App("a"), [T1]).errors == {}, "one it has is not an error"


def test_subscribing_again_changes_nothing() -> None:
    subs = table()
    subs.subscribe(App("a"), [T1])
    again = subs.subscribe(App("a"), [T1])
    assert (again.changed, again.errors, again.shards_gained) == ([], {}, set())


def test_remove_forgets_everything_of_a_subscriber() -> None:
    subs = table()
    subs.subscribe(App("a"), [T1, T2])
    subs.subscribe(App("b"), [T2])
    assert subs.remove(App("a")).shards_lost == {3}
    assert subs.topics_of(App("a")) == []
    assert subs.subscribers_on(6) == {"b": [T2]}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 5))))
def test_table_agrees_with_a_naive_model(steps: list[tuple[str, bool, int]]) -> None:
    subs = table()
    model: set[tuple[str, str]] = set()
    for app, add, number in steps:
        topic = f"/app{number}/1/name/proto"
        change = subs.subscribe(App(app), [topic]) if add else subs.unsubscribe(App(app), [topic])
        assert bool(change.errors) == (not add and (app, topic) not in model)
        before = {autoshard(t, 8) for _, t in model}
        model = model | {(app, topic)} if add else model - {(app, topic)}
        after = {autoshard(t, 8) for _, t in model}
        assert (change.shards_gained, change.shards_lost) == (after - before, before - after)
        assert subs.shards == after
        assert {(s, t) for t, route in subs.routes.items() for s in route.subscribers} == model


def test_auto_subscription_policies() -> None:
    policy = SubscribeOnFirstSend()
    assert policy.wants("a", T1, subscribed=False)
    assert not policy.wants("a", T1, subscribed=True)
    policy.unsubscribed("a", T1)
    assert not policy.wants("a", T1, subscribed=False), "it said that it does not want it"
    assert policy.wants("b", T1, subscribed=False)
    policy.forget("a")
    assert policy.wants("a", T1, subscribed=False)
    assert not NeverSubscribe().wants("a", T1, subscribed=False)
