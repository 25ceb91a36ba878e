"""Lists of peers that fit one reply, whatever the peers say of themselves.

What a peer calls its protocols comes from the network: a few peers with long lists would otherwise make every
reply that names them too large to be sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, TypeVar

from msgpack import packb

from ipc_schema.frames import MAX_BODY
from ipc_schema.kernel.discovery import KnownRecord
from ipc_schema.kernel.records import PeerRecord

__all__ = ["PROTOCOL_BYTES", "fitting"]

R = TypeVar("R", PeerRecord, KnownRecord)

PROTOCOL_BYTES: Final = 4096
"""Names of protocols that are told of one peer: a node that has them all needs a quarter of it."""
_ROOM: Final = MAX_BODY - 4096


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


def _cut(protocols: tuple[str, ...]) -> tuple[str, ...]:
    room = PROTOCOL_BYTES
    for at, protocol in enumerate(protocols):
        room -= len(protocol.encode()) + 3
        if room < 0:
            return protocols[:at]
    return protocols
