"""The messages of transfer (`/vac/waku/transfer/1.0.0`). Pure.

WakuMessageAndTopic is `1 pubsub_topic string, 2 WakuMessage bytes`, as nwaku has it; in the LIP the two are
the other way round.
"""

from __future__ import annotations

from typing import Final

from ipc_schema.protobuf import ProtobufFields, put_bytes, put_text

TRANSFER_PROTOCOL: Final = "/vac/waku/transfer/1.0.0"
MAX_NWAKU_TRANSFER: Final = 153_600
"""The largest frame that nwaku reads. A message near the network's limit does not fit."""


def encode_transfer(pubsub_topic: str, message: bytes) -> bytes:
    """Encode an archived message (`message` is the encoded WakuMessage)."""
    out = bytearray()
    put_text(out, 1, pubsub_topic)
    put_bytes(out, 2, message)
    return bytes(out)


def decode_transfer(frame: bytes) -> tuple[str, bytes]:
    """Return the pubsub topic and the encoded WakuMessage. Raise ProtobufError."""
    found = ProtobufFields(frame)
    return found.required_text(1, "pubsub_topic"), found.required_blob(2, "message")
