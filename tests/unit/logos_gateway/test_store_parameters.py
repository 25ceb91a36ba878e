"""The query string of `/store/v3/messages`, by the reference's rules."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from logos_gateway.bodies import TextRefusal
from logos_gateway.reference.store import parse_parameters

HASH = "0x" + "ab" * 32
PEER = "/ip4/127.0.0.1/tcp/60001/p2p/16Uiu2HAm4v86W3bmT1BiH6oSPzcsSr24iDQpSN5Qa992BCjjwgrD"


def test_defaults() -> None:
    asked = parse_parameters(QueryParams(""))
    assert (asked.include_data, asked.forward, asked.limit, asked.peer) == (False, True, 20, None)
    assert (asked.time_start, asked.time_end, asked.cursor, asked.hashes) == (None, None, None, ())


def test_everything() -> None:
    asked = parse_parameters(
        QueryParams(
            {
                "peerAddr": PEER,
                "includeData": "Yes",
                "pubsubTopic": "/waku/2/rs/1/0",
                "contentTopics": "/a/1/b/c, /d/1/e/f,",
                "startTime": "5",
                "endTime": "-1",
                "hashes": f"{HASH},{'cd' * 32}",
                "cursor": HASH,
                "ascending": "false",
                "pageSize": "7",
                "unknown": "ignored",
            }
        )
    )
    assert asked.peer == PEER
    assert asked.include_data
    assert asked.content_topics == ("/a/1/b/c", "/d/1/e/f")
    assert (asked.time_start, asked.time_end) == (5, None)
    assert asked.hashes == (b"\xab" * 32, b"\xcd" * 32)
    assert asked.cursor == b"\xab" * 32
    assert (asked.forward, asked.limit) == (False, 7)


@pytest.mark.parametrize(("text", "size"), [("0", 20), ("100", 100), ("101", 100), ("-5", 100)])
def test_page_sizes(text: str, size: int) -> None:
    assert parse_parameters(QueryParams({"pageSize": text})).limit == size


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("includeData", "maybe", "include data parsing error"),
        ("startTime", "soon", "time parsing error"),
        ("endTime", "1.5", "time parsing error"),
        ("hashes", "xyz", "Exception converting hex string to bytes"),
        ("cursor", "0xabcd", "waku message hash parsing error: invalid hash length: 2"),
        ("pageSize", "many", "page size parsing error"),
        ("contentTopics", "/a/1/b/c," * 101, "contentTopics: 101 elements, at most 100 are allowed"),
        ("hashes", f"{HASH}," * 1001, "hashes: 1001 elements, at most 1000 are allowed"),
        ("peerAddr", "nowhere", "Failed parsing remote peer info"),
        ("peerAddr", "/ip4/127.0.0.1/tcp/1", "Failed parsing remote peer info: Invalid MultiAddress"),
    ],
)
def test_bad_values_have_the_references_texts(name: str, value: str, text: str) -> None:
    with pytest.raises(TextRefusal, match=text) as refused:
        parse_parameters(QueryParams({name: value}))
    assert refused.value.status == 400
