"""What the polling routes of the messaging API keep of the app's events."""

from __future__ import annotations

from logos_client.events import Event, MessageError, MessagePropagated, MessageQueued, MessageUnconfirmed
from logos_gateway.reference.messaging_cache import MessagingCache

STREAM, REQUEST, DIGEST = b"s" * 16, b"r" * 16, b"d" * 32


def kept(*events: Event) -> list[tuple[str, str, str | None]]:
    cache = MessagingCache(None)
    for event in events:
        cache._keep(event)
    shown = cache.sends.take(REQUEST.hex()) or []
    return [(one["kind"], one["messageHash"], one.get("error")) for one in shown]


def test_the_events_of_a_send_come_in_order() -> None:
    shown = "0x" + DIGEST.hex()
    assert kept(
        MessageQueued(STREAM, 1, 0, REQUEST),
        MessagePropagated(STREAM, 2, 0, REQUEST, DIGEST),
        MessageError(STREAM, 3, 0, REQUEST, DIGEST, "why"),
    ) == [("queued", "", None), ("propagated", shown, None), ("error", shown, "why")]


def test_what_the_reference_does_not_tell_is_left_out() -> None:
    assert kept(MessageUnconfirmed(STREAM, 1, 0, REQUEST, DIGEST, "no store")) == []
