"""Events of an app's journal as plain values for JSON and MessagePack. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from logos_client.events import Event
from logos_gateway.json_values import show_hash, to_base64

__all__ = ["event_kind", "event_size", "plain_event"]

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")
_OVERHEAD: Final = 256
"""What an event costs beside its payload."""


def event_kind(event: Event) -> str:
    """The contract's name of an event's kind: `message_received`."""
    return _WORD.sub("_", type(event).__name__).lower()


def event_size(event: Event) -> int:
    """What an event costs in memory and against a reader's credit, in bytes."""
    return _OVERHEAD + len(getattr(event, "payload", b"")) + len(getattr(event, "meta", b""))


def plain_event(event: Event, *, binary: bool = False) -> dict[str, Any]:
    """An event's fields in camel case. Bytes are base64, ids and hashes hex; with `binary` payloads stay
    bytes, for MessagePack."""
    shown: dict[str, Any] = {"kind": event_kind(event)}
    for name, value in event._asdict().items():
        shown[_camel(name)] = _plain(name, value, binary=binary)
    return shown


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _plain(name: str, value: Any, *, binary: bool) -> Any:
    if isinstance(value, bytes):
        if name == "message_hash":
            return show_hash(value)
        if name in ("stream_id", "request_id", "lost_stream"):
            return value.hex()
        return value if binary else to_base64(value)
    if isinstance(value, tuple):
        return list(value)
    return value
