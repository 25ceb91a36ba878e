"""Message size limits: the limit applies to the whole relay frame, not to the payload (nwaku, measured).

A WakuMessage travels as `RPC{publish: Message{data, topic}}`; a frame above the maximum is never sent.
"""

from __future__ import annotations

from typing import Final

from ipc_schema.message import MAX_META_SIZE, WakuMessage, encode_message

__all__ = ["largest_message", "largest_payload", "relay_frame_size", "too_large_text"]

_MAX_TIMESTAMP: Final = (1 << 63) - 1


def _varint_size(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


def _field_size(length: int) -> int:
    """Return the size of a length-delimited protobuf field with a number below 16."""
    return 1 + _varint_size(length) + length


def relay_frame_size(message_size: int, pubsub_topic: str) -> int:
    """Return the size of the relay RPC (without its length prefix) that carries a message of that size."""
    return _field_size(_field_size(message_size) + _field_size(len(pubsub_topic.encode())))


def largest_message(max_message_size: int, pubsub_topic: str) -> int:
    """Return the size of the largest encoded WakuMessage whose relay frame is within `max_message_size`."""
    size = max_message_size
    while size > 0 and (excess := relay_frame_size(size, pubsub_topic) - max_message_size) > 0:
        size -= excess
    while relay_frame_size(size + 1, pubsub_topic) <= max_message_size:
        size += 1
    return max(size, 0)


def largest_payload(
    max_message_size: int, pubsub_topic: str, content_topic_bytes: int, meta_bytes: int = MAX_META_SIZE
) -> int:
    """Return the size of the largest payload that certainly fits with a content topic and meta of these
    lengths (no proof)."""
    room = largest_message(max_message_size, pubsub_topic)
    frame = WakuMessage(b"", "x" * content_topic_bytes, timestamp=_MAX_TIMESTAMP, meta=b"m" * meta_bytes)
    rest = len(encode_message(frame)) - 1  # the length prefix of the empty payload took one byte
    payload = room - rest
    while payload > 0 and payload + _varint_size(payload) + rest > room:
        payload -= 1
    return max(payload, 0)


def too_large_text(max_message_size: int) -> str:
    """Return the text that callers of nwaku match on."""
    return f"Message size exceeded maximum of {max_message_size} bytes"
