"""JSON bodies: strict decoding, and the shape of a message in the reference's REST API. Pure.

RelayWakuMessage: `{payload (base64, not empty), contentTopic, version?, timestamp? (ns), meta? (base64),
ephemeral?, proof? (base64)}`. Keys that are not known are ignored; a key given twice is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from ipc_schema.message import WakuMessage
from logos_client.events import MessageReceived
from logos_client.kernel_events import KernelMessage

_INT64: Final = 1 << 63
_UINT32: Final = 1 << 32


class BadBody(ValueError):
    """A bad body; the text is for its sender."""


def decode_json(data: bytes) -> Any:
    """Parse JSON. Raises `BadBody`: not JSON, not UTF-8, a key twice in one object, NaN or Infinity, or
    half of a surrogate pair."""
    try:
        value = _decode(data.decode("utf-8"))
        if b"\\" in data and (b"\\ud" in data or b"\\uD" in data):  # one byte is found many times faster
            # An escape can name what is not text, and what can neither be sent nor be answered with.
            _encode(value).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise BadBody(str(error) or type(error).__name__) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadBody(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise BadBody(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant).decode
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def json_text(value: object) -> str:
    """Encode as compact JSON."""
    return _encode(value)


def encode_json(value: object) -> bytes:
    """Encode as compact JSON in UTF-8."""
    return _encode(value).encode("utf-8", "surrogatepass")


def to_base64(data: bytes) -> str:
    """Encode as standard base64 with padding, as the reference does."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: object, what: str) -> bytes:
    """Decode standard base64. Raises `BadBody` naming the field."""
    if not isinstance(text, str):
        raise BadBody(f"{what}: expected base64 text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadBody(f"{what}: not base64: {error}") from None


def read_message(value: object) -> WakuMessage:
    """Read a RelayWakuMessage; a missing timestamp is 0, for the kernel to stamp. Raises `BadBody`."""
    if not isinstance(value, dict):
        raise BadBody("expected an object")
    if "payload" not in value:
        raise BadBody("Field `payload` is missing")
    payload = from_base64(value["payload"], "payload")
    if not payload:
        raise BadBody("Field `payload` is empty")
    topic = value.get("contentTopic")
    if topic is None:
        raise BadBody("Field `contentTopic` is missing")
    if not isinstance(topic, str):
        raise BadBody("contentTopic: expected text")
    return WakuMessage(
        payload=payload,
        content_topic=topic,
        version=_integer(value, "version", 0, _UINT32 - 1),
        timestamp=_integer(value, "timestamp", -_INT64, _INT64 - 1),
        meta=_optional_bytes(value, "meta"),
        proof=_optional_bytes(value, "proof"),
        ephemeral=_boolean(value, "ephemeral"),
    )


def _integer(value: Mapping[str, Any], key: str, low: int, high: int) -> int:
    number = value.get(key)
    if number is None:
        return 0
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise BadBody(f"{key}: expected an integer in {low}..{high}")
    return number


def _boolean(value: Mapping[str, Any], key: str) -> bool:
    flag = value.get(key)
    if flag is None:
        return False
    if not isinstance(flag, bool):
        raise BadBody(f"{key}: expected true or false")
    return flag


def _optional_bytes(value: Mapping[str, Any], key: str) -> bytes:
    return b"" if value.get(key) is None else from_base64(value[key], key)


def write_message(
    message: WakuMessage | KernelMessage | MessageReceived, *, proof: bool | None = True
) -> dict[str, Any]:
    """Return a RelayWakuMessage. `meta` is omitted when empty. `proof`: True always, None when not empty,
    False never (relay, store and filter differ in that)."""
    shown: dict[str, Any] = {
        "payload": to_base64(message.payload),
        "contentTopic": message.content_topic,
        "version": message.version,
        "timestamp": message.timestamp,
        "ephemeral": message.ephemeral,
    }
    if message.meta:
        shown["meta"] = to_base64(message.meta)
    proof_bytes = b"" if isinstance(message, MessageReceived) else message.proof
    if proof or (proof is None and proof_bytes):
        shown["proof"] = to_base64(proof_bytes)
    return shown
