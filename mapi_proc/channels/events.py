"""What a channel returns: transmissions for the Messaging API, events for the app, and requests to be
stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mapi_proc.channels.sds.message import HistoryEntry
from mapi_proc.channels.sds.state import Changes, Meta, SdsStoredMessage, SendKind
from mapi_proc.channels.segmentation.join import SetKey, Slot


class Transmit(NamedTuple):
    """Send this payload on the channel's content topic. None: read it from the message's row."""

    message_id: str
    payload: bytes | None
    ephemeral: bool
    kind: SendKind


class RetrieveMessages(NamedTuple):
    """Ask stores for messages by hash, and give what they have to `receive`."""

    entries: tuple[HistoryEntry, ...]


class Received(NamedTuple):
    """A payload for the app. `message_id` is the SDS id of its first segment; `lamport` in milliseconds."""

    sender_id: str
    message_id: str
    payload: bytes
    lamport: int


class SealedSegment(NamedTuple):
    """A segment that the app is to decrypt, and to give to `ChannelCore.opened`."""

    sender_id: str
    message_id: str
    content: bytes


class Sent(NamedTuple):
    """All segments have reached the network."""

    request_id: bytes


class Delivered(NamedTuple):
    """A participant has the whole payload. Final."""

    request_id: bytes
    by: str


class SendError(NamedTuple):
    """A segment never reached the network. Final."""

    request_id: bytes
    error: str


class DeliveryError(NamedTuple):
    """Sent, but no participant is known to have the whole payload after all attempts. Final."""

    request_id: bytes
    error: str


MOST_LOST_IDS: Final = 256
"""Others choose the length of ids, and an event's header is bounded."""


class MessageLost(NamedTuple):
    """Something was sent to the channel that the app will not get, or not in its place. At most
    `MOST_LOST_IDS` ids."""

    payload_hash: bytes
    message_ids: tuple[str, ...]
    reason: str


class SyncStatus(NamedTuple):
    """`missing`: messages known but not received; 0: synced."""

    missing: int


class ReceiveRefused(NamedTuple):
    """A received message was dropped: a counter's label."""

    reason: str


ChannelOutput = (
    Transmit
    | RetrieveMessages
    | Received
    | SealedSegment
    | Sent
    | Delivered
    | SendError
    | DeliveryError
    | MessageLost
    | SyncStatus
    | ReceiveRefused
)


class StoredRequest(NamedTuple):
    """A row: a send that is not final. `needed` segments make the payload."""

    request_id: bytes
    segments: tuple[str, ...]
    needed: int
    ephemeral: bool
    sent: bool
    fingerprint: bytes = b""
    """Identifies the payload, to distinguish a repeated request from another one under its id."""


class EndedRequest(NamedTuple):
    """What stays of a send that is final."""

    fingerprint: bytes
    sent: bool
    end: str
    detail: str


@dataclass(slots=True)
class ChannelChanges:
    """What to store before acting on the outputs."""

    messages: Changes
    requests: dict[bytes, StoredRequest | EndedRequest] = field(default_factory=dict)
    leftovers: dict[SetKey, frozenset[Slot] | None] = field(default_factory=dict)
    """Outstanding segments of joined payloads. None: delete the row."""


@dataclass(slots=True)
class StoredChannel:
    """All stored state of a channel."""

    meta: Meta = field(default_factory=Meta)
    messages: list[SdsStoredMessage] = field(default_factory=list)
    requests: list[StoredRequest] = field(default_factory=list)
    leftovers: dict[SetKey, frozenset[Slot]] = field(default_factory=dict)
