"""What is public of an app's stream. Apart from what is compiled: such classes have no docstrings, and one
base at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from logos_client._event_form import EventForm


class _Position(NamedTuple):
    stream_id: bytes
    seq: int


class Position(EventForm, _Position):
    """A position in a stream: everything up to `seq`."""

    __slots__ = ()
    kind = "position"


@dataclass(slots=True)
class StreamCounters:
    """Counters of incoming events."""

    received: int = 0
    duplicates: int = 0
    garbage: int = 0
    unknown: int = 0
    missing: int = 0
    local_dropped: int = 0
