"""Remember where each app's stream stood at each start of this process, and check an app's position by it.

A database put back together with everything beside it (a snapshot of its file system, of the machine) looks
whole from within. Only an app knows better: the last event that it received, and from which process. That
process must be known here, and the stream must have been as far when the next one started; otherwise numbers
that the app has seen were, or would be, given again. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgpack

from ipc_schema.hello import SeenPosition

STARTS_NOTE: Final = "starts"
_KEPT: Final = 16


class _Start(NamedTuple):
    """One start: the process's instance, and the last seq of each named app's stream at it."""

    instance: bytes
    last: Mapping[int, int]


class Starts:
    """The latest starts, oldest first; the last one is this process's."""

    def __init__(self, note: bytes | None, instance: bytes, last: Mapping[int, int]) -> None:
        """Continue what `to_note` returned in the life before (None or damaged: nothing is known)."""
        self._starts = [*_read(note), _Start(instance, dict(last))][-_KEPT:]

    def to_note(self) -> bytes:
        return bytes(msgpack.packb(self._starts))

    def contradicts(self, app_id: int, seen: SeenPosition, last_seq: int) -> bool:
        """Return whether the app has seen events of its stream, now at `last_seq`, that are not in it."""
        instances = [start.instance for start in self._starts]
        if seen.instance not in instances:
            # Forgotten, since it was long ago, or never heard of: the oldest start has to know the event.
            return seen.seq > self._starts[0].last.get(app_id, 0)
        after = self._starts[instances.index(seen.instance) + 1 :]
        return seen.seq > (after[0].last.get(app_id, 0) if after else last_seq)


def _read(note: bytes | None) -> list[_Start]:
    if note is None:
        return []
    try:
        return [
            _Start(bytes(instance), {int(app): int(last) for app, last in lasts.items()})
            for instance, lasts in msgpack.unpackb(note, strict_map_key=False)
        ]
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        return []
