"""Content topics, pubsub topics and autosharding (23/WAKU2-TOPICS, RELAY-SHARDING).

A content topic belongs to the application and is opaque to relay, filter and store; only autosharding
parses it. A pubsub topic names one shard of one cluster: `/waku/2/rs/<cluster>/<shard>`.

Every refusal is a `TopicError` whose text is the one callers of nwaku match on.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple, Self

__all__ = [
    "MAX_CLUSTER",
    "MAX_SHARD",
    "MAX_SHARD_COUNT",
    "ContentTopic",
    "PubsubTopic",
    "TopicError",
    "autoshard",
    "autoshard_topic",
    "place",
    "shard_topic",
]

MAX_CLUSTER: Final = 0xFFFF
MAX_SHARD: Final = 0xFFFF
"""Largest shard that a pubsub topic can name (uint16); ENRs can only say 0..1023."""
MAX_SHARD_COUNT: Final = 1024
"""Shards of one cluster that ENRs can announce (52/WAKU2-RELAY-STATIC-SHARD-ALLOC)."""

_PREFIX: Final = "/waku/2/rs/"
_STRUCTURE: Final = (
    "invalid format: Invalid content topic structure. Expected either "
    "/<application>/<version>/<topic-name>/<encoding> or "
    "/<gen>/<application>/<version>/<topic-name>/<encoding>"
)


class TopicError(ValueError):
    """The text is not a content topic or pubsub topic, or it cannot be mapped to a shard."""


def _decimal(text: str, maximum: int) -> int | None:
    """Parse plain ASCII decimal digits up to `maximum`; None for anything else (signs, blanks, other
    digits)."""
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    value = int(text)
    return value if value <= maximum else None


class ContentTopic(NamedTuple):
    """A parsed content topic: `/{application}/{version}/{name}/{encoding}`, with `/{generation}` before it
    when `generation` is not None."""

    application: str
    version: str
    name: str
    encoding: str
    generation: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse with nwaku's rules: leading slash, 4 parts or a generation and 4 parts, none empty."""
        if not text.startswith("/"):
            raise TopicError(f"invalid format: content-topic '{text}' must start with slash")
        parts = text[1:].split("/")
        generation: int | None = None
        if len(parts) == 5:
            first = parts.pop(0)
            if not first:
                raise TopicError("missing part: generation")
            generation = _decimal(first, 0x7FFF_FFFF_FFFF_FFFF)
            if generation is None:
                raise TopicError("invalid format: generation should be a numeric value")
        elif len(parts) != 4:
            raise TopicError(_STRUCTURE)
        for part, what in zip(parts, ("application", "version", "topic-name", "encoding"), strict=True):
            if not part:
                raise TopicError(f"missing part: {what}")
        return cls(parts[0], parts[1], parts[2], parts[3], generation)

    def __str__(self) -> str:
        head = "" if self.generation is None else f"/{self.generation}"
        return f"{head}/{self.application}/{self.version}/{self.name}/{self.encoding}"


class PubsubTopic(NamedTuple):
    """A shard of a cluster. Both are uint16."""

    cluster: int
    shard: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `/waku/2/rs/<cluster>/<shard>`; named topics are refused (deprecated since 2025-07-24)."""
        if not text.startswith(_PREFIX):
            raise TopicError(f"invalid format: pubsub topic '{text}' must start with {_PREFIX}")
        parts = text[len(_PREFIX) :].split("/")
        if len(parts) != 2:
            raise TopicError(
                f"invalid format: pubsub topic '{text}' must be {_PREFIX}<cluster-id>/<shard-id>"
            )
        if not parts[0]:
            raise TopicError("missing part: cluster-id")
        if not parts[1]:
            raise TopicError("missing part: shard-id")
        cluster = _decimal(parts[0], MAX_CLUSTER)
        if cluster is None:
            raise TopicError(f"invalid format: cluster-id '{parts[0]}' must be 0..{MAX_CLUSTER}")
        shard = _decimal(parts[1], MAX_SHARD)
        if shard is None:
            raise TopicError(f"invalid format: shard-id '{parts[1]}' must be 0..{MAX_SHARD}")
        return cls(cluster, shard)

    def __str__(self) -> str:
        return f"{_PREFIX}{self.cluster}/{self.shard}"


def shard_topic(cluster: int, shard: int) -> str:
    """Return the pubsub topic of a shard. Raises `TopicError` unless both are uint16."""
    if not 0 <= cluster <= MAX_CLUSTER:
        raise TopicError(f"cluster {cluster} is outside 0..{MAX_CLUSTER}")
    if not 0 <= shard <= MAX_SHARD:
        raise TopicError(f"shard {shard} is outside 0..{MAX_SHARD}")
    return f"{_PREFIX}{cluster}/{shard}"


def _autoshard(content_topic: str, shard_count: int) -> int:
    topic = ContentTopic.parse(content_topic)
    if topic.generation:
        raise TopicError("Generation > 0 are not supported yet")
    try:
        digest = sha256((topic.application + topic.version).encode()).digest()
    except UnicodeEncodeError as error:
        raise TopicError(f"invalid format: content topic is not valid Unicode: {error.reason}") from error
    return int.from_bytes(digest[24:], "big") % shard_count


# An application uses few content topics, many times each. Topics come from the network too, so the cache is
# bounded in bytes: at most 4096 entries of at most 256 characters. Errors are never cached.
_REMEMBERED_LENGTH: Final = 256
_autoshard_remembered = lru_cache(maxsize=4096)(_autoshard)


def autoshard(content_topic: str, shard_count: int) -> int:
    """Return the shard of a content topic in a cluster of `shard_count` shards.

    sha256(application || version), last 8 bytes as a big-endian number, modulo the count. The specification
    takes the whole digest; nwaku, js-waku and go-waku take 8 bytes, which differs unless the count is a
    power of two. The implementations are the network, so we follow them.

    Raises `TopicError` for a malformed topic, a generation above 0, or a count below 1 (a network without
    autosharding).
    """
    if shard_count < 1:
        raise TopicError("Pubsub topic must be specified when static sharding is enabled")
    if len(content_topic) <= _REMEMBERED_LENGTH:
        return _autoshard_remembered(content_topic, shard_count)
    return _autoshard(content_topic, shard_count)


def autoshard_topic(content_topic: str, cluster: int, shard_count: int) -> str:
    """Return the pubsub topic that autosharding gives a content topic. Raises `TopicError`."""
    return shard_topic(cluster, autoshard(content_topic, shard_count))


def place(
    content_topics: Iterable[str],
    *,
    cluster: int,
    shard_count: int,
    pubsub_topic: str | None = None,
    shard: int | None = None,
) -> int:
    """Return the one shard that a request is about: of its pubsub topic, else of its shard field, else by
    autosharding of its content topics. Whether the network has that shard is not checked.

    Raises `TopicError` if two of them contradict each other, for another cluster, or content topics of
    several shards.
    """
    if pubsub_topic is not None:
        parsed = PubsubTopic.parse(pubsub_topic)
        if parsed.cluster != cluster:
            raise TopicError(f"{pubsub_topic} is not on cluster {cluster}")
        if shard is not None and shard != parsed.shard:
            raise TopicError(f"shard {shard} and {pubsub_topic} are not the same")
        return parsed.shard
    if shard is not None:
        return shard
    found = {autoshard(content, shard_count) for content in content_topics}
    if len(found) != 1:
        raise TopicError(f"content topics of {len(found)} shards, not one")
    return found.pop()
