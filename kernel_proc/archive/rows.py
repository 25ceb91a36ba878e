"""The row format, common to all databases.

A row is found by its hash, by its pubsub topic in time order, or by its two topics in time order. For the
last, the index contains `topic_key`, eight bytes of a hash of both topics: content topics come from the
network and may have any length, and the index must not grow with them. Lookups by key also compare the topics
themselves, so that a collision is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple

from ipc_schema.message import MessageEncodeError, WakuMessage, encode_message

MAX_PUBSUB_TOPIC: Final = 512
"""Maximum bytes. Pubsub topics are chosen by the node itself; PostgreSQL cannot index much longer ones."""

ROW_OVERHEAD: Final = 512
"""Memory overhead of a waiting message in bytes."""


class Offer(NamedTuple):
    """A message waiting to be stored."""

    pubsub_topic: str
    message: WakuMessage
    message_hash: bytes
    cost: int
    """Its cost in the queue in bytes."""


class ArchivedRow(NamedTuple):
    """A message as stored. `data` is the complete encoded WakuMessage."""

    timestamp: int
    message_hash: bytes
    topic_key: int
    pubsub_topic: str
    content_topic: str
    data: bytes


def topic_key(pubsub_topic: str, content_topic: str) -> int:
    """Return a signed 64-bit number that represents the pair in an index."""
    digest = sha256(pubsub_topic.encode() + b"\0" + content_topic.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def make_rows(offers: Iterable[Offer]) -> tuple[list[ArchivedRow], int]:
    """Encode messages. Return the rows, and the number that could not be encoded."""
    rows: list[ArchivedRow] = []
    refused = 0
    for pubsub_topic, message, message_hash, _ in offers:
        content_topic = message.content_topic
        try:
            data = encode_message(message)
            key = topic_key(pubsub_topic, content_topic)
        except (MessageEncodeError, UnicodeEncodeError):
            refused += 1
        else:
            rows.append(ArchivedRow(message.timestamp, message_hash, key, pubsub_topic, content_topic, data))
    return rows, refused
