"""What fixes the hash of a send is in its record, whichever bridge goes on with it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.hello import NetworkInfo
from ipc_schema.message import WakuMessage, message_hash
from ipc_schema.topics import autoshard, shard_topic
from logos_bridge.send_record import DraftRefusedError, RecordedSend, RecordError, read_draft, request_id_of
from logos_bridge.subjects import encode_topic

NETWORK = NetworkInfo(cluster=16, shard_count=8, max_message_size=10_000)
NOW = 1_700_000_000_000_000_000
TOPIC = "/weather/1/berlin/json"
words = st.text(min_size=1, max_size=10).filter(lambda word: "/" not in word)


def record(**headers: str) -> RecordedSend:
    draft = read_draft(encode_topic(TOPIC), headers, b"payload", NETWORK)
    return RecordedSend.begin(
        draft,
        NETWORK,
        request_id=request_id_of("t", 1),
        queue_seq=1,
        owner="a",
        timestamp=NOW,
    )


@given(words, words, st.binary(max_size=64), st.booleans(), st.text("abc-é \r\n%", max_size=20))
def test_any_bridge_reads_the_same_record_with_the_same_hash(
    application: str, name: str, meta: bytes, ephemeral: bool, reason: str
) -> None:
    topic = f"/{application}/1/{name}/proto"
    headers = {"Logos-Meta": meta.hex(), "Logos-Ephemeral": str(ephemeral), "Nats-Msg-Id": "id é"}
    draft = read_draft(encode_topic(topic), headers, b"payload", NETWORK)
    first = RecordedSend.begin(
        draft,
        NETWORK,
        request_id=request_id_of("t", 5),
        queue_seq=5,
        owner="a",
        timestamp=NOW,
    )
    second = RecordedSend.from_headers(first.key, first.to_headers(), b"payload").taken_by("b")
    assert second.taken_by("a") == first
    message = WakuMessage(b"payload", topic, timestamp=second.timestamp, meta=meta)
    assert second.message_hash == message_hash(shard_topic(16, autoshard(topic, 8)), message)
    ended = second.ended("error", reason)
    written = ended.to_headers()
    assert all(value.isascii() and value.isprintable() for value in written.values())
    assert RecordedSend.from_headers(ended.key, written, b"payload") == ended


@pytest.mark.parametrize(
    ("tokens", "headers", "payload", "reason"),
    [
        ("weather.1.berlin.json", {}, b"", "payload: empty"),
        ("weather.1", {}, b"x", "content topic"),
        ("9.weather.1.berlin.json", {}, b"x", "Generation"),
        ("a b", {}, b"x", "subject"),
        ("%x." + "0" * 64, {}, b"x", "Logos-Content-Topic: missing"),
        ("weather.1.berlin.json", {"Logos-Content-Topic": "/other/1/x/y"}, b"x", "not that of the subject"),
        ("weather.1.berlin.json", {"Logos-Meta": "xyz"}, b"x", "not hex digits"),
        ("weather.1.berlin.json", {"Logos-Meta": "00" * 65}, b"x", "at most 64"),
        ("weather.1.berlin.json", {"Logos-Ephemeral": "maybe"}, b"x", "true or false"),
        ("weather.1.berlin.json", {"Logos-Client": "a.b"}, b"x", "Logos-Client"),
        ("weather.1.berlin.json", {"Nats-Msg-Id": "x" * 257}, b"x", "longer than 256"),
        ("weather.1.berlin.json", {}, b"x" * 10_001, "Message size exceeded maximum of 10000 bytes"),
        (encode_topic("/" + "x" * 300 + "/1/a/b"), {}, b"x", "longer than 256 bytes"),
    ],
)
def test_what_can_never_be_sent_is_refused_with_the_reason(
    tokens: str, headers: dict[str, str], payload: bytes, reason: str
) -> None:
    with pytest.raises(DraftRefusedError, match=reason):
        read_draft(tokens, headers, payload, NETWORK)


@given(st.dictionaries(st.sampled_from(list(record().to_headers())), st.text(max_size=10), max_size=11))
def test_a_record_that_was_tampered_with_is_an_error_and_nothing_worse(changed: dict[str, str]) -> None:
    first = record()
    with suppress(RecordError):
        RecordedSend.from_headers(first.key, first.to_headers() | changed, b"payload")


def test_each_entry_of_the_queue_has_a_request_id_of_its_own() -> None:
    ids = {request_id_of(created, seq) for created in ("2026-01-01", "2026-01-02") for seq in range(50)}
    assert len(ids) == 100
    assert request_id_of("2026-01-01", 3) == request_id_of("2026-01-01", 3)
