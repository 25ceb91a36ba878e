"""Lists of peers that fit one reply, whatever the peers say of themselves.

What a peer calls its protocols comes from the network: a few peers with long lists would otherwise make every
reply that names them too large to be sent.
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

__all__ = ["PROTOCOL_BYTES", "fitting", "fitting_states"]

R = TypeVar("R", PeerRecord, KnownRecord)

PROTOCOL_BYTES: Final = 4096
"""Names of protocols that are told of one peer: a node that has them all needs a quarter of it."""
_ROOM: Final = MAX_BODY - 4096
_STATE_BYTES: Final = 128
"""Of a stream's state without its coverage: names, numbers and an epoch of fixed size."""
_INTERVAL_BYTES: Final = 19
"""An array of two 64-bit numbers."""


def fitting(records: Iterable[R]) -> tuple[R, ...]:
    """The first records that fit, with so many of their protocols as have room."""
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
    """The first states that fit, each with its newest intervals as far as all have room for: what lies before
    the first interval counts as not covered, so that a reader who is given fewer misses nothing."""
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
