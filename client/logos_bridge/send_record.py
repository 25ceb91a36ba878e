"""A send on its way from the work queue to its final fate. Pure.

The record is in JetStream (KV bucket of open sends) before the first attempt. It holds all that fixes the
message's hash, so that any bridge can go on with the same message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from ipc_schema.hello import NetworkInfo
from ipc_schema.message import MAX_META_SIZE, WakuMessage, encode_message, format_hash, message_hash
from ipc_schema.sizes import relay_frame_size, too_large_text
from ipc_schema.topics import TopicError, autoshard, shard_topic
from logos_bridge.headers import CONTENT_TOPIC, MESSAGE_ID, quoted, unquoted
from logos_bridge.layout import NO_CLIENT
from logos_bridge.subjects import SubjectError, decode_topic

FINAL_FATES: Final = frozenset({"sent", "unconfirmed", "error", "cancelled"})
MAX_CONTENT_TOPIC: Final = 256
"""Bytes of UTF-8 that the Messaging API accepts."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_SEND_ID: Final = 256
_BOOLEANS: Final = {"true": True, "false": False}


class DraftRefusedError(ValueError):
    """A send in the queue can never be sent; the text says why."""


class RecordError(ValueError):
    """A record of an open send cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendDraft:
    """What a program put into the queue, checked."""

    content_topic: str
    payload: bytes
    meta: bytes
    ephemeral: bool
    send_id: str
    """The program's own id of it (`Nats-Msg-Id`); empty if it gave none."""
    client: str


def read_draft(tokens: str, headers: Mapping[str, str], payload: bytes, network: NetworkInfo) -> SendDraft:
    """Read a message of the queue. `tokens`: its subject behind the prefix. Raises `DraftRefusedError`."""
    topic = _content_topic(tokens, headers)
    if not payload:
        raise DraftRefusedError("payload: empty")
    draft = SendDraft(
        content_topic=topic,
        payload=payload,
        meta=_meta(headers.get("Logos-Meta", "")),
        ephemeral=_boolean(headers.get("Logos-Ephemeral", "false")),
        send_id=headers.get(MESSAGE_ID, ""),
        client=headers.get("Logos-Client", NO_CLIENT),
    )
    if not _TOKEN.fullmatch(draft.client):
        raise DraftRefusedError("Logos-Client: 1 to 64 letters, digits, _ or -")
    if len(draft.send_id) > _MAX_SEND_ID:
        raise DraftRefusedError(f"{MESSAGE_ID}: longer than {_MAX_SEND_ID} characters")
    _check_place(draft, network)
    return draft


def _content_topic(tokens: str, headers: Mapping[str, str]) -> str:
    named = headers.get(CONTENT_TOPIC)
    try:
        topic = decode_topic(tokens)
    except SubjectError as error:
        raise DraftRefusedError(f"subject: {error}") from None
    if topic is None:
        if named is None:
            raise DraftRefusedError(f"{CONTENT_TOPIC}: missing, and the subject has only its hash")
        return unquoted(named)
    if named is not None and unquoted(named) != topic:
        raise DraftRefusedError(f"{CONTENT_TOPIC}: not that of the subject")
    return topic


def _meta(text: str) -> bytes:
    try:
        meta = bytes.fromhex(text)
    except ValueError:
        raise DraftRefusedError("Logos-Meta: not hex digits") from None
    if len(meta) > MAX_META_SIZE:
        raise DraftRefusedError(f"Logos-Meta: {len(meta)} bytes, at most {MAX_META_SIZE}")
    return meta


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise DraftRefusedError("Logos-Ephemeral: true or false")
    return _BOOLEANS[text.lower()]


def _check_place(draft: SendDraft, network: NetworkInfo) -> None:
    """Refuse what the network would."""
    if len(draft.content_topic.encode("utf-8", "surrogatepass")) > MAX_CONTENT_TOPIC:
        raise DraftRefusedError(f"content topic: longer than {MAX_CONTENT_TOPIC} bytes")
    try:
        shard = autoshard(draft.content_topic, network.shard_count)
    except TopicError as error:
        raise DraftRefusedError(f"content topic: {error}") from None
    message = WakuMessage(draft.payload, draft.content_topic, timestamp=2**62, meta=draft.meta)
    if (
        relay_frame_size(len(encode_message(message)), shard_topic(network.cluster, shard))
        > network.max_message_size
    ):
        raise DraftRefusedError(too_large_text(network.max_message_size))


def request_id_of(stream_created: str, sequence: int) -> bytes:
    """Return the request id of an entry of the queue: the same at each delivery, unlike that of any other.

    `Nats-Msg-Id` is not used for it: within the duplicate window JetStream drops a second entry with the
    same one, and after it the second one is another send, with a fate of its own.
    """
    return sha256(f"logos-bridge send {stream_created} {sequence}".encode()).digest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSend:
    """An open send. `fate`: empty, or the final one, not yet known to be published."""

    request_id: bytes
    draft: SendDraft
    timestamp: int
    message_hash: bytes
    queue_seq: int
    """Its place in the work queue, from which it goes when the Messaging API has it on disk."""
    owner: str
    fate: str = ""
    reason: str = ""

    @classmethod
    def begin(
        cls,
        draft: SendDraft,
        network: NetworkInfo,
        *,
        request_id: bytes,
        queue_seq: int,
        owner: str,
        timestamp: int,
    ) -> RecordedSend:
        """Fix timestamp and hash."""
        shard = autoshard(draft.content_topic, network.shard_count)
        message = WakuMessage(draft.payload, draft.content_topic, timestamp=timestamp, meta=draft.meta)
        return cls(
            request_id=request_id,
            draft=draft,
            timestamp=timestamp,
            message_hash=message_hash(shard_topic(network.cluster, shard), message),
            queue_seq=queue_seq,
            owner=owner,
        )

    def taken_by(self, owner: str) -> RecordedSend:
        """Return it with another owner: nothing that the network sees changes."""
        return replace(self, owner=owner)

    def ended(self, fate: str, reason: str) -> RecordedSend:
        return replace(self, fate=fate, reason=reason)

    @property
    def key(self) -> str:
        """Key in the bucket."""
        return self.request_id.hex()

    @property
    def send_id(self) -> str:
        """The id by which the program that sent it knows it."""
        return self.draft.send_id or self.key

    def to_headers(self) -> dict[str, str]:
        """Return everything but the payload, which is the value."""
        draft = self.draft
        return {
            "Logos-Send-Id": quoted(draft.send_id),
            "Logos-Client": draft.client,
            CONTENT_TOPIC: quoted(draft.content_topic),
            "Logos-Meta": draft.meta.hex(),
            "Logos-Ephemeral": "true" if draft.ephemeral else "false",
            "Logos-Timestamp": str(self.timestamp),
            "Logos-Message-Hash": format_hash(self.message_hash),
            "Logos-Queue-Seq": str(self.queue_seq),
            "Logos-Owner": self.owner,
            "Logos-Fate": self.fate,
            "Logos-Reason": quoted(self.reason),
        }

    @classmethod
    def from_headers(cls, key: str, headers: Mapping[str, str], payload: bytes) -> RecordedSend:
        """Read a record. Raises `RecordError`."""
        try:
            return cls(
                request_id=bytes.fromhex(key),
                draft=SendDraft(
                    content_topic=unquoted(headers[CONTENT_TOPIC]),
                    payload=payload,
                    meta=bytes.fromhex(headers["Logos-Meta"]),
                    ephemeral=_BOOLEANS[headers["Logos-Ephemeral"]],
                    send_id=unquoted(headers["Logos-Send-Id"]),
                    client=headers["Logos-Client"],
                ),
                timestamp=int(headers["Logos-Timestamp"]),
                message_hash=bytes.fromhex(headers["Logos-Message-Hash"].removeprefix("0x")),
                queue_seq=int(headers["Logos-Queue-Seq"]),
                owner=headers["Logos-Owner"],
                fate=headers["Logos-Fate"],
                reason=unquoted(headers["Logos-Reason"]),
            )
        except (KeyError, ValueError) as error:
            raise RecordError(f"record {key}: {error!r}") from None
