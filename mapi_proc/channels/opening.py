"""Reading what came on a channel's content topic, in any of the wire forms."""

from __future__ import annotations

from typing import NamedTuple

from mapi_proc.channels.encryption import Cipher, CipherError
from mapi_proc.channels.sds.message import SdsError, SdsMessage, decode_sds
from mapi_proc.channels.segmentation.message import SegmentError, SegmentMessage, decode_segment

Body = SegmentMessage | bytes
"""A segment, or a payload that was sent without segmentation."""


class NotOursError(Exception):
    """The message is not one of this channel."""


class Opened(NamedTuple):
    """A message of the channel, and what its content is."""

    message: SdsMessage
    body: Body


def content_context(channel_id: str, sender_id: str) -> bytes:
    """Return what an encrypted content is bound to."""
    return b"\0".join((b"content", channel_id.encode(), sender_id.encode()))


def envelope_context(channel_id: str) -> bytes:
    """Return what an encrypted envelope is bound to."""
    return b"\0".join((b"envelope", channel_id.encode()))


def open_message(data: bytes, channel_id: str, cipher: Cipher | None) -> Opened:
    """Read a WakuMessage's payload.

    Raises `NotOursError` for what is not of this channel, and `CipherError` for content that cannot be
    decrypted. With a cipher, plain content is refused.
    """
    sealed_envelope = False
    try:
        message = decode_sds(data)
    except SdsError as error:
        if cipher is None:
            raise NotOursError(str(error)) from error
        try:
            message = decode_sds(cipher.decrypt(data, envelope_context(channel_id)))
        except (CipherError, SdsError) as inner:
            # Without the key nothing says that it was ours: others may use the content topic too.
            raise NotOursError(str(inner)) from inner
        sealed_envelope = True
    if message.channel_id != channel_id:
        raise NotOursError("another channel's message")
    content = message.content
    if cipher is not None and not sealed_envelope and content:
        content = cipher.decrypt(content, content_context(channel_id, message.sender_id))
    return Opened(message, read_body(content))


def read_body(content: bytes) -> Body:
    try:
        return decode_segment(content)
    except SegmentError:
        return content
