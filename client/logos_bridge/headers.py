"""Headers of what the bridge writes to JetStream and reads from it. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from ipc_schema.message import WakuMessage
from logos_client.kernel_events import KernelMessage

MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
CONTENT_TOPIC: Final = "Logos-Content-Topic"
STORE: Final = "store"
"""Source of a message that the kernel did not deliver and a store had."""


def quoted(text: str) -> str:
    """Return a text in ASCII without line ends, as in URLs: header lines can hold nothing else."""
    if text.isascii() and text.isprintable() and "%" not in text and text == text.strip():
        return text
    return quote(text, safe="/:;,.!?()[]{}<>@&=+$*'\"-_~")


unquoted: Final = unquote
"""Undo `quoted`."""


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
