"""Whether a send subscribes."""

from __future__ import annotations

from mapi_proc.subscriptions import SubscribeOnFirstSend


def test_what_an_app_has_left_is_remembered_for_the_latest_topics_only() -> None:
    policy = SubscribeOnFirstSend(most=3)
    for number in range(1000):
        policy.unsubscribed("flood", f"/a/1/{number}/p")
    policy.unsubscribed("other", "/a/1/0/p")
    assert policy.wants("flood", "/a/1/0/p", False), "forgotten"
    assert not policy.wants("flood", "/a/1/999/p", False)
    policy.unsubscribed("flood", "/a/1/997/p")  # once more: it is the latest now
    policy.unsubscribed("flood", "/a/1/1000/p")
    assert not policy.wants("flood", "/a/1/997/p", False)
    assert policy.wants("flood", "/a/1/998/p", False)
    assert not policy.wants("other", "/a/1/0/p", False)
    policy.forget("flood")
    assert policy.wants("flood", "/a/1/999/p", False)
