"""Cut an app's list of content topics into parts that fit a reply."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

__all__ = ["topic_page"]

_BYTES: Final = 256 << 10
_TOPICS: Final = 8_192
"""A body has 1 MiB, and an array or map in it 16,384 elements; hello carries two such lists."""


def topic_page(topics: Sequence[str], after: str = "") -> tuple[Sequence[str], bool]:
    """Return the sorted topics behind `after` that fit one reply, at least one if there is any, and whether
    there are more."""
    start = bisect_right(topics, after) if after else 0
    room = _BYTES
    end = start
    for topic in topics[start : start + _TOPICS]:
        room -= len(topic.encode()) + 5
        if room < 0 and end > start:
            break
        end += 1
    return topics[start:end], end < len(topics)
