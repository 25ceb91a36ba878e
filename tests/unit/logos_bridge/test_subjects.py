"""Content topics as subjects: reversible, valid for NATS, one form for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos_bridge.subjects import MAX_SUBJECT, SubjectError, decode_topic, encode_topic

EXAMPLES = {
    "/weather/1/berlin/json": "weather.1.berlin.json",
    "/0/weather/1/berlin/json": "0.weather.1.berlin.json",
    "/a.b/1/c*d>/e f": "a%2Eb.1.c%2Ad%3E.e%20f",
    "/straße/1/x/proto": "stra%C3%9Fe.1.x.proto",
    "/%41/1/x/proto": "%2541.1.x.proto",
    "": "%-.%",
    "/": "%",
    "//": "%.%",
    "weather": "%-.weather",
    "%-/x": "%-.%25-.x",
    "/$JS/API": "%24JS.API",
}
texts = st.text(max_size=200)
topics = texts | st.lists(st.text("ab1./%-*> \0é", max_size=6), max_size=6).map("/".join)


@pytest.mark.parametrize(("topic", "subject"), EXAMPLES.items())
def test_examples(topic: str, subject: str) -> None:
    assert encode_topic(topic) == subject
    assert decode_topic(subject) == topic


@given(topics)
def test_every_topic_comes_back_from_tokens_that_nats_accepts(topic: str) -> None:
    subject = encode_topic(topic)
    assert len(subject) <= MAX_SUBJECT
    assert subject.isascii()
    assert subject.isprintable()
    assert all(token and not set(token) & set(" *>.") for token in subject.split("."))
    if not subject.startswith("%x."):
        assert decode_topic(subject) == topic


@given(topics, topics)
def test_two_topics_never_share_a_subject(one: str, other: str) -> None:
    assert (encode_topic(one) == encode_topic(other)) is (one == other)


@given(st.text("ab%-x.0F2E5/ *", max_size=20))
def test_whatever_is_decoded_is_written_the_same(tokens: str) -> None:
    try:
        topic = decode_topic(tokens)
    except SubjectError:
        return
    assert topic is None or encode_topic(topic) == tokens


def test_a_topic_that_is_too_long_has_a_hash() -> None:
    topic = "/" + "x" * (MAX_SUBJECT + 1)
    assert decode_topic(encode_topic(topic[:-1])) == topic[:-1]
    subject = encode_topic(topic)
    assert subject.startswith("%x.")
    assert len(subject) == 3 + 64
    assert decode_topic(subject) is None


@pytest.mark.parametrize("tokens", ["", "a..b", "a b", "%2e", "%41", "%-", "%x.12", "é", "a.%ff"])
def test_other_forms_are_refused(tokens: str) -> None:
    with pytest.raises(SubjectError):
        decode_topic(tokens)
