"""Outputs of the SDS core, and changes to store.

Outputs say what should happen; changes say what must be on disk before it does. Both are collected while an
input is handled, and taken together by the caller: one transaction, then the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from mapi_proc.channels.sds.message import HistoryEntry, SdsMessage


class SdsState(IntEnum):
    """State of a stored message."""

    WAITING = 0
    """It waits for messages before it."""
    HELD = 1
    """Delivered by SDS; its payload waits for more segments."""
    DONE = 2
    """Done; its bytes are kept for repair."""
    LOST = 3
    """It never arrived, and nothing waits for it any more."""
    OPENED = 4
    """As HELD, and its app has decrypted it: after a restart the app is asked again."""


class SdsStoredMessage(NamedTuple):
    """A row: one message of the channel. Without `raw` (None) only its id is remembered; read back, an empty
    one is on disk and was not read."""

    message_id: str
    order: int
    sender_id: str
    hint: bytes
    state: SdsState
    raw: bytes | None


class Meta(NamedTuple):
    """The channel's single values: the Lamport clock, the end of what was forgotten, the newest messages that
    no other one refers to, and messages declared lost."""

    clock: int = 0
    floor: tuple[int, str] = (0, "")
    heads: tuple[str, ...] = ()


@dataclass(slots=True)
class Changes:
    """Changes to store, by message id. Applied in the order of the fields."""

    put: dict[str, SdsStoredMessage] = field(default_factory=dict)
    states: dict[str, SdsState] = field(default_factory=dict)
    hints: dict[str, bytes] = field(default_factory=dict)
    stripped: set[str] = field(default_factory=set)
    """Rows whose `raw` goes, unless their state is HELD or OPENED: then it goes when the state changes."""
    removed: set[str] = field(default_factory=set)
    meta: Meta | None = None

    def store(self, row: SdsStoredMessage) -> None:
        """Write a row, replacing any earlier change to it."""
        self.removed.discard(row.message_id)
        self.states.pop(row.message_id, None)
        self.put[row.message_id] = row

    def remove(self, message_id: str) -> None:
        """Delete a message's row."""
        self.put.pop(message_id, None)
        self.removed.add(message_id)


class SendKind(IntEnum):
    """The reason for a transmission."""

    FIRST = 0
    AGAIN = 1
    """Not acknowledged in time: the same bytes in a new WakuMessage (new timestamp, new hash)."""
    REPAIR = 2
    """Another participant asked for it. Not to be stored by the network."""
    SYNC = 3
    """It carries no content. Not to be stored by the network."""


class Send(NamedTuple):
    """Transmit these bytes; None: read them from the stored row."""

    message_id: str
    raw: bytes | None
    kind: SendKind


class Deliver(NamedTuple):
    """A message whose predecessors are all delivered or lost. `body` is what the caller gave with it."""

    message: SdsMessage
    body: object


class Acknowledged(NamedTuple):
    """A participant has a message of ours; once per pair."""

    message_id: str
    by: str


class GaveUp(NamedTuple):
    """A message of ours is unacknowledged after the last attempt."""

    message_id: str


class Lost(NamedTuple):
    """Messages that never arrived; their dependents are delivered without them."""

    entries: tuple[HistoryEntry, ...]


class Retrieve(NamedTuple):
    """Ask stores for these messages by their hints."""

    entries: tuple[HistoryEntry, ...]


class Discarded(NamedTuple):
    """A message was not taken, and why: `duplicate`, `own`, `too_old`, `lamport`, `waiting_full`,
    `missing_full`."""

    message_id: str
    reason: str


Output = Send | Deliver | Acknowledged | GaveUp | Lost | Retrieve | Discarded
