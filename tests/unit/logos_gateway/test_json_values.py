from __future__ import annotations

import base64

import pytest

from ipc_schema.message import WakuMessage
from logos_gateway.json_values import (
    BadBody,
    decode_json,
    encode_json,
    from_base64,
    read_message,
    write_message,
)

FULL = {
    "payload": "aGVsbG8=",
    "contentTopic": "/app/1/chat/proto",
    "version": 1,
    "timestamp": 1700000000000000000,
    "meta": "bWV0YQ==",
    "ephemeral": True,
    "proof": "cHJvb2Y=",
}


def test_a_message_comes_back_as_it_was() -> None:
    message = read_message(FULL)
    assert message == WakuMessage(
        b"hello", "/app/1/chat/proto", 1, 1700000000000000000, b"meta", b"proof", True
    )
    assert write_message(message) == FULL


def test_only_payload_and_topic_are_needed_and_unknown_keys_are_ignored() -> None:
    message = read_message({"payload": "aGk=", "contentTopic": "/a/1/b/c", "meta": None, "color": "red"})
    assert message == WakuMessage(b"hi", "/a/1/b/c")


def test_what_is_written_when_fields_are_empty() -> None:
    message = WakuMessage(b"hi", "/a/1/b/c", timestamp=5)
    plain = {
        "payload": "aGk=",
        "contentTopic": "/a/1/b/c",
        "version": 0,
        "timestamp": 5,
        "ephemeral": False,
    }
    assert write_message(message) == {**plain, "proof": ""}
    assert write_message(message, proof=None) == plain
    assert write_message(message._replace(proof=b"p"), proof=False) == plain
    assert write_message(message._replace(proof=b"p"), proof=None) == {**plain, "proof": "cA=="}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"payload": ""}, "payload"),
        ({"payload": None}, "payload"),
        ({"payload": "not base64!"}, "payload"),
        ({"payload": 5}, "payload"),
        ({"contentTopic": None}, "contentTopic"),
        ({"contentTopic": 5}, "contentTopic"),
        ({"version": -1}, "version"),
        ({"version": 1 << 32}, "version"),
        ({"version": True}, "version"),
        ({"timestamp": 1 << 63}, "timestamp"),
        ({"timestamp": 1.5}, "timestamp"),
        ({"ephemeral": "yes"}, "ephemeral"),
        ({"meta": "=="}, "meta"),
        ({"proof": 1}, "proof"),
    ],
)
def test_a_bad_field_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(BadBody, match=named):
        read_message({**FULL, **change})


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_a_message_is_an_object(value: object) -> None:
    with pytest.raises(BadBody, match="object"):
        read_message(value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"NaN",
        b"[Infinity]",
        b"\xff",
        rb'{"a": "\ud800"}',
        rb'["\uDC00\uD800"]',
        b"[" * 100_000,
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadBody):
        decode_json(body)


def test_escapes_may_name_any_character() -> None:
    assert decode_json(rb'["\ud83d\ude00\u00e4"]') == ["\U0001f600ä"]


def test_json_is_compact_and_in_utf8() -> None:
    assert encode_json({"ü": [1, None]}) == '{"ü":[1,null]}'.encode()


def test_base64_is_standard_and_strict() -> None:
    data = bytes(range(256))
    assert from_base64(base64.b64encode(data).decode(), "x") == data
    for text in ("aGk", "aG k=", "-_-_", "aGk=\n"):
        with pytest.raises(BadBody, match="x"):
            from_base64(text, "x")
