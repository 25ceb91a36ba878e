"""Fit lists of peers into one reply, whatever the peers claim about themselves.

Protocol names come from the network: a few peers with long lists could otherwise make every reply that
contains them too large to send.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from msgpack import packb

from ipc_schema.frames import MAX_BODY
from ipc_schema.kernel.discovery import KnownRecord
from ipc_schema.kernel.records import PeerRecord
from ipc_schema.streams import StreamState

R = TypeVar("R", PeerRecord, KnownRecord)

PROTOCOL_BYTES: Final = 4096
"""Maximum bytes of protocol names per peer: a node with all protocols needs a quarter of it."""
_ROOM: Final = MAX_BODY - 4096
_STATE_BYTES: Final = 128
"""Size of a stream's state without coverage: names, numbers and an epoch of fixed size."""
_INTERVAL_BYTES: Final = 19
"""An array of two 64-bit numbers."""


def fitting(records: Iterable[R]) -> tuple[R, ...]:
    """Return the first records that fit, with as many of their protocols as possible."""
    found: list[R] = []
    room = _ROOM
    for record in records:
        short = replace(record, protocols=_cut(record.protocols))
        room -= len(packb(short.to_body()))
        if room < 0:
            break
        found.append(short)
    return tuple(found)


def fitting_states(states: Sequence[StreamState]) -> tuple[StreamState, ...]:
    """Return the first states that fit, each with as many of its newest intervals as possible.

    What precedes the first interval counts as not covered, so a truncated list never hides a gap.
    """
    shown = states[: _ROOM // (_STATE_BYTES + _INTERVAL_BYTES)]
    intervals = max(1, (_ROOM - len(shown) * _STATE_BYTES) // _INTERVAL_BYTES // max(1, len(shown)))
    return tuple(
        state if len(state.coverage) <= intervals else replace(state, coverage=state.coverage[-intervals:])
        for state in shown
    )


def _cut(protocols: tuple[str, ...]) -> tuple[str, ...]:
    room = PROTOCOL_BYTES
    for at, protocol in enumerate(protocols):
        room -= len(protocol.encode()) + 3
        if room < 0:
            return protocols[:at]
    return protocols
