"""Events of an app's journal as plain values for JSON and MessagePack. Pure."""

from __future__ import annotations

from binascii import b2a_base64
from functools import cache, lru_cache
from typing import Any, Final

from ipc_schema.message import format_hash
from logos_client.events import ChannelMessageReceived, Event, MessageReceived
from logos_gateway.apps.sse import SSE_END, sse_head
from logos_gateway.apps.window import LOCAL_EVENTS, WindowEntry
from logos_gateway.json_values import json_text, to_base64

_OVERHEAD: Final = 256
"""Bytes that an event costs in addition to its payload."""
_MESSAGE_HEAD: Final = sse_head(MessageReceived.kind)
_MESSAGE_END: Final = b'"}' + SSE_END
_IDS: Final = frozenset({"stream_id", "request_id", "lost_stream"})


@cache
def _names(fields: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _camel(name)) for name in fields)


def event_size(event: Event) -> int:
    """Return what an event costs in memory and in a reader's credit, in bytes."""
    if isinstance(event, MessageReceived):
        return _OVERHEAD + len(event.payload) + len(event.meta)
    return _OVERHEAD + (len(event.payload) if isinstance(event, ChannelMessageReceived) else 0)


def plain_event(event: Event, *, binary: bool = False) -> dict[str, Any]:
    """Return an event's fields in camel case: bytes in base64, ids and hashes in hex. With `binary`, payloads
    remain bytes, for MessagePack."""
    shown: dict[str, Any] = {"kind": event.kind}
    for (name, key), value in zip(_names(event._fields), event, strict=True):
        shown[key] = _plain(name, value, binary=binary) if isinstance(value, bytes | tuple) else value
    return shown


def event_parts(event: Event, before: str = "") -> tuple[bytes, ...]:
    """Return `before` and the event's JSON in pieces, for the caller to join with those of other events: a
    payload is then copied once.

    Most events are received messages: building their text directly takes a third of the time of a dict and
    json. Only texts chosen by others need escaping.
    """
    if type(event) is MessageReceived:
        return _message_parts(event, before, server_sent=False)
    return ((before + json_text(plain_event(event))).encode(),)


def _message_parts(event: MessageReceived, before: str, *, server_sent: bool) -> tuple[bytes, bytes, bytes]:
    """Return the pieces of a received message; as a server-sent event with its id, head and end."""
    stream_id, seq, time_ns, topic, payload, message_hash, timestamp, meta, ephemeral, version, source = event
    stream = stream_id.hex()
    if server_sent:
        before = f"id: {stream}:{seq}\n{_MESSAGE_HEAD}"
    head = (
        f'{before}{{"kind":"message_received","streamId":"{stream}","seq":{seq},'
        f'"timeNs":{time_ns},"contentTopic":{_quoted(topic)},'
        f'"messageHash":"0x{message_hash.hex()}","timestamp":{timestamp},'
        f'"meta":"{to_base64(meta) if meta else ""}","ephemeral":{"true" if ephemeral else "false"},'
        f'"version":{version},"source":{_quoted(source)},"payload":"'
    )
    return head.encode(), b2a_base64(payload, newline=False), _MESSAGE_END if server_sent else b'"}'


def sse_parts(entry: WindowEntry) -> tuple[bytes, ...]:
    """Return an entry as a server-sent event, in pieces as `event_parts`."""
    event = entry.event
    if type(event) is MessageReceived:
        return _message_parts(event, "", server_sent=True)
    if isinstance(event, LOCAL_EVENTS):
        head = sse_head(event.kind)
    else:
        head = f"id: {event.stream_id.hex()}:{event.seq}\n{sse_head(event.kind)}"
    return *event_parts(event, head), SSE_END


@lru_cache(maxsize=1024)
def _quoted(text: str) -> str:
    return json_text(text)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _plain(name: str, value: bytes | tuple[Any, ...], *, binary: bool) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if name == "message_hash":
        return format_hash(value)
    if name in _IDS:
        return value.hex()
    return value if binary else to_base64(value)
