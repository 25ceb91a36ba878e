"""Cross-origin requests: who may call from a browser. Pure.

The rules are the reference's (`rest-allow-origin`): without an Origin header, or without an allowed origin,
nothing is added; `*` and `?` in an allowed origin match as in file names; an origin that does not match is
refused. Beyond them, what a page could do without CORS (open a WebSocket) needs the same origin or an allowed
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["OriginDecision", "judge_origin", "may_open_socket"]


class OriginDecision(NamedTuple):
    """What becomes of a request: refused with a status and a text, or answered with these headers added."""

    refusal: tuple[int, str] | None
    headers: Mapping[str, str]


_NOTHING = OriginDecision(None, {})


def judge_origin(origins: Sequence[str], allowed: Sequence[str]) -> OriginDecision:
    """Judge a request by its Origin headers."""
    if len(origins) > 1:
        return OriginDecision((400, "Only one Origin header is possible"), {})
    if not origins or not allowed:
        return _NOTHING
    if "*" in allowed:
        return OriginDecision(None, {"Access-Control-Allow-Origin": "*"})
    if _matches(origins[0], allowed):
        return OriginDecision(None, {"Access-Control-Allow-Origin": origins[0], "Vary": "Origin"})
    return OriginDecision((403, "Origin not allowed"), {})


def may_open_socket(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Tell whether a page of this origin may open a WebSocket. Programs need not send an Origin."""
    return origin is None or "*" in allowed or _matches(origin, allowed) or urlsplit(origin).netloc == host


def _matches(origin: str, allowed: Sequence[str]) -> bool:
    # fnmatch knows [sets] too, which an origin cannot contain but for an IPv6 host: escape them.
    return any(fnmatchcase(origin, pattern.replace("[", "[[]")) for pattern in allowed)
