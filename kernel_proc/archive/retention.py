"""How much of the archive a retention policy makes superfluous.

nwaku trims at 1.3 times a capacity and drops a fifth of all rows when a size is exceeded; here the bounds are
kept as they are written, since the excess is removed continuously and in small pieces.
"""

from __future__ import annotations

from ipc_schema.config.archive import RetentionPolicy

__all__ = ["excess"]


def excess(policy: RetentionPolicy, messages: int, size: int) -> int:
    """Count the oldest messages beyond capacity and size; a size is converted by the average message."""
    too_many = 0
    if policy.messages is not None:
        too_many = messages - policy.messages
    if policy.bytes is not None and size > policy.bytes:
        too_many = max(too_many, -(-(size - policy.bytes) * messages // size))
    return max(0, too_many)
