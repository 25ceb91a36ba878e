"""Events as JSON: the text put together by hand says what the dict says."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from logos_client.events import ConnectionStatusChange, Event, MessageReceived, MessageSent
from logos_gateway.apps.encoding import event_parts, plain_event

received = st.builds(
    MessageReceived,
    stream_id=st.binary(min_size=16, max_size=16),
    seq=st.integers(1, 2**63 - 1),
    time_ns=st.integers(0, 2**63 - 1),
    content_topic=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    payload=st.binary(max_size=40),
    message_hash=st.binary(min_size=32, max_size=32),
    timestamp=st.integers(-(2**63), 2**63 - 1),
    meta=st.binary(max_size=10),
    ephemeral=st.booleans(),
    version=st.integers(0, 2**32 - 1),
    source=st.sampled_from(["live", "history"]),
)


def event_json(event: Event) -> bytes:
    return b"".join(event_parts(event))


@given(received)
def test_a_received_message(event: MessageReceived) -> None:
    text = event_json(event)
    assert json.loads(text) == plain_event(event)
    assert b"\n" not in text  # it is one line of a server-sent event
    assert b"\r" not in text
    assert b"".join(event_parts(event, "data: ")) == b"data: " + text


def test_other_events_are_their_fields_in_camel_case() -> None:
    event = ConnectionStatusChange(b"a" * 16, 7, 9, "Connected", "")
    assert json.loads(event_json(event)) == {
        "kind": "connection_status_change",
        "streamId": "61" * 16,
        "seq": 7,
        "timeNs": 9,
        "status": "Connected",
        "reason": "",
    }
    sent = MessageSent(b"a" * 16, 8, 9, b"r" * 16, b"h" * 32)
    assert json.loads(event_json(sent))["messageHash"] == "0x" + "68" * 32
    assert plain_event(sent, binary=True)["requestId"] == "72" * 16
