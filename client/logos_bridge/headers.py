"""Headers of what the bridge writes to JetStream and reads from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from ipc_schema.message import WakuMessage
from logos_client.kernel_events import SOURCE_FILTER, SOURCE_RELAY, SOURCE_SELF, KernelMessage

MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
CONTENT_TOPIC: Final = "Logos-Content-Topic"
STORE: Final = "store"
"""Source of a message that the kernel did not deliver and a store had."""

_SOURCES: Final[Mapping[int, str]] = {SOURCE_RELAY: "relay", SOURCE_FILTER: "filter", SOURCE_SELF: "self"}


def source_name(source: int) -> str:
    """Return the header's word for a source of the contract."""
    return _SOURCES.get(source, str(source))


def quoted(text: str) -> str:
    """Return a text in ASCII without line ends, as in URLs: header lines can hold nothing else."""
    if text.isascii() and text.isprintable() and "%" not in text and text == text.strip():
        return text
    return quote(text, safe="/:;,.!?()[]{}<>@&=+$*'\"-_~")


def unquoted(text: str) -> str:
    """Undo `quoted`."""
    return unquote(text)


def message_headers(digest: str, message: WakuMessage | KernelMessage, source: str) -> dict[str, str]:
    """Return the headers of a message of the network, whose hash is `digest` in hex. What is usual is left
    out: version 0, no meta, not ephemeral."""
    headers = {
        MESSAGE_ID: digest,
        "Logos-Message-Hash": digest,
        "Logos-Timestamp": str(message.timestamp),
        "Logos-Source": source,
        CONTENT_TOPIC: quoted(message.content_topic),
    }
    if message.meta:
        headers["Logos-Meta"] = message.meta.hex()
    if message.version:
        headers["Logos-Version"] = str(message.version)
    if message.ephemeral:
        headers["Logos-Ephemeral"] = "true"
    return headers
