"""Requests from browsers: which pages may call, and under which host names. Pure.

The rules for an Origin are the reference's (`rest-allow-origin`): without an Origin header, or without an
allowed origin, nothing is added; `*` and `?` in an allowed origin match as in file names; an origin that does
not match is refused. The gateway's own pages have its own origin, which needs no permission.

Without tokens a gateway trusts what reaches it, and it is on loopback. Two kinds of foreign pages reach it
all the same, from the browser of a person on this host: one whose name was pointed at 127.0.0.1 (DNS
rebinding: to the browser it is of the same origin, so only the name in Host tells it apart), and one that
does not need to read the answer (a form, an image, a WebSocket). Both are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Final, NamedTuple

#: A name, or an IPv6 address in brackets, and a port (RFC 9110 §7.2). Not held against ours: it is another
#: one where the port is forwarded, and a page cannot choose it.
_HOST: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::[0-9]{0,5})?")


class OriginDecision(NamedTuple):
    """The verdict on a request: refused with a status and a text, or answered with these headers added."""

    refusal: tuple[int, str] | None
    headers: Mapping[str, str]


_NOTHING = OriginDecision(None, {})
_REFUSED = OriginDecision((403, "Origin not allowed"), {})


def judge_origin(
    origins: Sequence[str], allowed: Sequence[str], *, host: str = "", acting: bool = False
) -> OriginDecision:
    """Check a request's Origin headers. `acting`: it has effects even if its response is not read."""
    if len(origins) > 1:
        return OriginDecision((400, "Only one Origin header is possible"), {})
    if not origins or _same(origins[0], host):
        return _NOTHING
    if not allowed:
        return _REFUSED if acting else _NOTHING
    if "*" in allowed:
        return OriginDecision(None, {"Access-Control-Allow-Origin": "*"})
    if _matches(origins[0], allowed):
        return OriginDecision(None, {"Access-Control-Allow-Origin": origins[0], "Vary": "Origin"})
    return _REFUSED


def may_open_socket(origin: str | None, host: str, allowed: Sequence[str]) -> bool:
    """Return whether a page of this origin may open a WebSocket. Programs need not send an Origin."""
    return origin is None or "*" in allowed or _matches(origin, allowed) or _same(origin, host)


def known_host(host: str, names: Sequence[str]) -> bool:
    """Return whether a Host header names this machine's loopback, or is one of `names`."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    address, name = found.groups()
    if name is not None and (name.lower() == "localhost" or name.lower() in names):
        return True
    try:
        return ip_address(address or name).is_loopback
    except ValueError:
        return False


def _same(origin: str, host: str) -> bool:
    return origin.partition("://")[2] == host != ""


def _matches(origin: str, allowed: Sequence[str]) -> bool:
    # fnmatch also supports [sets]; an origin contains brackets only for an IPv6 host: escape them.
    return any(fnmatchcase(origin, pattern.replace("[", "[[]")) for pattern in allowed)
