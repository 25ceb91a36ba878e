"""Content topics, pubsub topics and autosharding."""

from __future__ import annotations

import contextlib
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema import topics as module
from ipc_schema.topics import (
    ContentTopic,
    PubsubTopic,
    TopicError,
    autoshard,
    autoshard_topic,
    place,
    shard_topic,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(module.__file__).parent / "vectors" / "topics.json").read_text(encoding="utf-8")
)
uint16 = st.integers(0, 0xFFFF)
part = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=20)


@pytest.mark.parametrize("case", VECTORS["content_topics"], ids=lambda case: case["text"])
def test_content_topic_vectors(case: dict[str, Any]) -> None:
    topic = ContentTopic.parse(case["text"])
    assert topic._asdict() == {key: value for key, value in case.items() if key != "text"}
    assert str(topic) == case["text"]


@pytest.mark.parametrize("case", VECTORS["content_topics_refused"], ids=lambda case: case["text"])
def test_content_topic_refusals(case: dict[str, str]) -> None:
    with pytest.raises(TopicError) as caught:
        ContentTopic.parse(case["text"])
    assert str(caught.value).startswith(case["error"])


@pytest.mark.parametrize("case", VECTORS["pubsub_topics"], ids=lambda case: case["text"])
def test_pubsub_topic_vectors(case: dict[str, Any]) -> None:
    topic = PubsubTopic.parse(case["text"])
    assert topic == (case["cluster"], case["shard"])
    assert str(topic) == shard_topic(*topic) == case["text"]


@pytest.mark.parametrize("text", VECTORS["pubsub_topics_refused"])
def test_pubsub_topic_refusals(text: str) -> None:
    with pytest.raises(TopicError):
        PubsubTopic.parse(text)


@pytest.mark.parametrize("case", VECTORS["autosharding"], ids=lambda c: f"{c['application']}-{c['version']}")
def test_autosharding_vectors(case: dict[str, Any]) -> None:
    application, version = case["application"], case["version"]
    assert sha256((application + version).encode()).hexdigest()[48:] == case["digest_tail"]
    for count, shard in case["shards"].items():
        for text in (f"/{application}/{version}/any/proto", f"/0/{application}/{version}/other/cbor"):
            assert autoshard(text, int(count)) == shard
            assert autoshard_topic(text, 7, int(count)) == f"/waku/2/rs/7/{shard}"


@pytest.mark.parametrize("case", VECTORS["autosharding_refused"], ids=lambda case: case["error"])
def test_autosharding_refusals(case: dict[str, Any]) -> None:
    with pytest.raises(TopicError) as caught:
        autoshard(case["text"], case["shard_count"])
    assert str(caught.value).startswith(case["error"])


def test_a_long_topic_has_a_shard_and_is_not_remembered() -> None:
    before = module._autoshard_remembered.cache_info().currsize
    text = f"/toychat/2/{'x' * 100_000}/proto"
    assert autoshard(text, 8) == 3
    assert module._autoshard_remembered.cache_info().currsize == before


def test_a_topic_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(TopicError, match="Unicode"):
        autoshard("/\ud800/1/b/c", 8)


@pytest.mark.parametrize(("cluster", "shard"), [(-1, 0), (0, -1), (65536, 0), (0, 65536)])
def test_shard_topic_refuses_what_is_not_a_uint16(cluster: int, shard: int) -> None:
    with pytest.raises(TopicError):
        shard_topic(cluster, shard)


@given(uint16, uint16)
def test_pubsub_topic_round_trip(cluster: int, shard: int) -> None:
    assert PubsubTopic.parse(shard_topic(cluster, shard)) == (cluster, shard)


@given(part, part, part, part, st.none() | st.integers(0, 2**63 - 1))
def test_content_topic_round_trip(a: str, v: str, n: str, e: str, generation: int | None) -> None:
    topic = ContentTopic(a, v, n, e, generation)
    assert ContentTopic.parse(str(topic)) == topic


@given(st.text(max_size=60), st.integers(1, 1024))
def test_any_text_gives_a_shard_or_a_topic_error(text: str, count: int) -> None:
    for candidate in (text, "/waku/2/rs/" + text):
        with contextlib.suppress(TopicError):
            assert 0 <= autoshard(candidate, count) < count
        with contextlib.suppress(TopicError):
            PubsubTopic.parse(candidate)


def test_the_shard_that_a_request_is_about() -> None:
    topics = ("/toychat/2/huilong/proto",)
    where: dict[str, Any] = {"cluster": 1, "shard_count": 8}
    by_content = autoshard(topics[0], 8)
    assert place(topics, **where) == by_content
    assert place(topics, **where, shard=7) == 7
    assert place((), **where, pubsub_topic="/waku/2/rs/1/5") == 5
    assert place((), **where, pubsub_topic="/waku/2/rs/1/5", shard=5) == 5
    several = tuple(f"/app{number}/1/x/proto" for number in range(20))
    wrong: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
        (topics, {"pubsub_topic": "/waku/2/rs/2/5"}, "is not on cluster 1"),
        (topics, {"pubsub_topic": "/waku/2/rs/1/5", "shard": 4}, "are not the same"),
        (topics, {"pubsub_topic": "nonsense"}, "nonsense"),
        (("nonsense",), {}, "must start with slash"),
        (several, {}, "shards, not one"),
        ((), {}, "of 0 shards, not one"),
    ]
    for contents, more, text in wrong:
        with pytest.raises(TopicError, match=text):
            place(contents, **where, **more)
