from __future__ import annotations

from logos_gateway import polling_caches
from logos_gateway.polling_caches import ReceivedCache, SendEventCache, TopicCache


def test_reading_a_topic_empties_it() -> None:
    cache = TopicCache(50)
    assert cache.take("t") is None
    assert cache.subscribe("t")
    assert cache.take("t") == []
    cache.add("t", 1, 10)
    cache.add("t", 2, 10)
    cache.add("other", 3, 10)
    assert len(cache) == 2
    assert cache.take("t") == [1, 2]
    assert cache.take("t") == []
    assert cache.take("other") is None


def test_the_oldest_messages_of_a_topic_go_first() -> None:
    cache = TopicCache(3)
    cache.subscribe("t")
    for number in range(5):
        cache.add("t", number, 1)
    assert cache.dropped == 2
    assert cache.take("t") == [2, 3, 4]


def test_bytes_are_bounded_over_all_topics() -> None:
    cache = TopicCache(100, max_bytes=100)
    for topic in ("a", "b"):
        cache.subscribe(topic)
    for number in range(5):
        cache.add("a", number, 20)
    cache.add("b", "x", 20)
    assert cache.dropped == 1
    assert cache.take("a") == [1, 2, 3, 4]
    assert cache.take("b") == ["x"]
    cache.add("a", "larger than all", 200)
    assert cache.take("a") == []


def test_topics_are_bounded() -> None:
    cache = TopicCache(1)
    for number in range(polling_caches.MAX_TOPICS):
        assert cache.subscribe(str(number))
    assert not cache.subscribe("one more")
    assert cache.subscribe("0")
    cache.unsubscribe("0")
    assert cache.subscribe("one more")
    cache.clear()
    assert cache.topics == []


def test_received_messages_keep_the_newest() -> None:
    cache = ReceivedCache(2)
    for number in range(3):
        cache.add(number)
    assert cache.dropped == 1
    assert cache.take() == [1, 2]
    assert cache.take() == []


def test_send_events_by_request_id() -> None:
    cache = SendEventCache(2)
    for request_id, event in (("a", 1), ("b", 2), ("a", 3), ("c", 4)):
        cache.add(request_id, event)
    assert cache.dropped == 1
    assert cache.take("a") is None
    assert cache.take("b") == [2]
    assert dict(cache.take_all()) == {"c": [4]}
    assert dict(cache.take_all()) == {}
