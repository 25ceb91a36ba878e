"""Content topics as NATS subjects, and back. Pure.

A content topic is split at its slashes, and each part becomes one token:

    /weather/1/berlin/json  <->  weather.1.berlin.json

so that wildcards select by application, version or name. What a token may not hold, or would hide, is written
as `%` and two upper-case hex digits for each byte of UTF-8: anything but letters, digits, `_`, `-`, `~`, `+`,
`=`, `,`, `:`, `@`, `!`. An empty part is `%`. A content topic that does not begin with a slash has the token
`%-` before it. The encoding is canonical: each topic has one subject, and only what `encode_topic` writes is
decoded.

A topic whose subject would be longer than `MAX_SUBJECT` has the two tokens `%x` and its SHA-256 in hex
instead, and only its header has it: servers refuse control lines above 4 KiB.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from typing import Final

MAX_SUBJECT: Final = 1_024
"""Characters of the encoded content topic."""

_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-~+=,:@!")
_PLAIN: Final = re.compile(r"(?:/[A-Za-z0-9_~+=,:@!-]+)+").fullmatch
_EMPTY: Final = "%"
_NO_SLASH: Final = "%-"
_HASHED: Final = "%x"
_ESCAPES: Final = [chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in range(256)]
_TOKEN: Final = re.compile(r"(?:[A-Za-z0-9_~+=,:@!-]|%[0-9A-F]{2})+").fullmatch
_ESCAPE: Final = re.compile(r"%([0-9A-F]{2})")


class SubjectError(ValueError):
    """The tokens are not those of a content topic; the text says why."""


def encode_topic(content_topic: str) -> str:
    """Return the tokens of a content topic, joined with dots."""
    return _encode_remembered(content_topic) if len(content_topic) <= _REMEMBERED else _encode(content_topic)


def _encode(content_topic: str) -> str:
    if len(content_topic) <= MAX_SUBJECT + 1 and _PLAIN(content_topic):
        return content_topic[1:].replace("/", ".")
    lead, rest = ([], content_topic[1:]) if content_topic.startswith("/") else ([_NO_SLASH], content_topic)
    subject = ".".join((*lead, *map(_token, rest.split("/"))))
    if len(subject) <= MAX_SUBJECT:
        return subject
    return f"{_HASHED}.{sha256(content_topic.encode()).hexdigest()}"


# Few content topics, many messages each. Topics come from the network, so the cache is bounded in bytes too.
_REMEMBERED: Final = 256
_encode_remembered = lru_cache(maxsize=1_024)(_encode)


def decode_topic(tokens: str) -> str | None:
    """Return the content topic of `encode_topic`'s text; None: it was too long, and its header has it.

    Raises `SubjectError`.
    """
    parts = tokens.split(".")
    if parts[0] == _HASHED:
        if len(parts) == 2 and re.fullmatch(r"[0-9a-f]{64}", parts[1]):
            return None
        raise SubjectError(f"{_HASHED} is followed by the 64 hex digits of a SHA-256")
    lead = "/"
    if parts[0] == _NO_SLASH and len(parts) > 1:
        lead, parts = "", parts[1:]
    topic = lead + "/".join(map(_part, parts))
    if encode_topic(topic) != tokens:
        raise SubjectError(f"{tokens!r} is not what {topic!r} is written as")
    return topic


def _token(part: str) -> str:
    return "".join([_ESCAPES[byte] for byte in part.encode()]) or _EMPTY


def _part(token: str) -> str:
    if token == _EMPTY:
        return ""
    if not _TOKEN(token):
        raise SubjectError(f"{token!r} is not a part of a content topic: other characters are written as %XX")
    raw = b"".join(
        bytes.fromhex(piece) if index % 2 else piece.encode()
        for index, piece in enumerate(_ESCAPE.split(token))
    )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise SubjectError(f"{token!r} is not UTF-8") from None
