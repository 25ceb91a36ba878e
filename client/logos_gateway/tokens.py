"""Bearer tokens and what they allow. Pure but for `load_tokens`.

A token file has one token per line, `<token> <scope>[,<scope>…]`; empty lines and lines that begin with `#`
are skipped. Only digests are kept in memory, and no text of an error repeats a token.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

_TOKEN: Final = re.compile(r"[!-~]{16,512}")


class Scope(StrEnum):
    """What a token permits. `admin` includes the others."""

    APPS = "apps"
    """An app's journal, its sends and subscriptions; the messaging routes."""
    KERNEL = "kernel"
    """Relay, filter, lightpush and store routes, and live events of the kernel."""
    ADMIN = "admin"


class TokenFileError(ValueError):
    """A bad token file; the text says why, without repeating a token."""


class Tokens:
    """The tokens of one file."""

    def __init__(self, scopes: Mapping[bytes, frozenset[Scope]]) -> None:
        """`scopes`: SHA-256 of a token → its scopes."""
        self._scopes = dict(scopes)

    def __len__(self) -> int:
        return len(self._scopes)

    def scopes_of(self, token: str) -> frozenset[Scope] | None:
        """Return a token's scopes, None if it is unknown. Takes equally long for every token."""
        digest = _digest(token)
        found: frozenset[Scope] | None = None
        for known, scopes in self._scopes.items():
            if hmac.compare_digest(known, digest):
                found = scopes
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def parse_tokens(text: str) -> Tokens:
    """Read the text of a token file. Raises `TokenFileError` with the line number."""
    scopes: dict[bytes, frozenset[Scope]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise TokenFileError(f"line {number}: expected <token> <scope>[,<scope>…]")
        token, names = words
        if _TOKEN.fullmatch(token) is None:
            raise TokenFileError(f"line {number}: a token has 16 to 512 visible ASCII characters")
        try:
            granted = frozenset(Scope(name) for name in names.split(","))
        except ValueError:
            raise TokenFileError(f"line {number}: scopes are {', '.join(Scope)}") from None
        digest = _digest(token)
        if digest in scopes:
            raise TokenFileError(f"line {number}: the same token stands twice")
        scopes[digest] = frozenset(Scope) if Scope.ADMIN in granted else granted
    if not scopes:
        raise TokenFileError("there is no token in it")
    return Tokens(scopes)


def load_tokens(path: str) -> Tokens:
    """Read a token file. Raises `TokenFileError`: unreadable, readable by others, or malformed."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - the descriptor is checked, not the path
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise TokenFileError(f"{path}: others can read it: chmod 600 it")
            text = file.read(1 << 20)
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{path}: {error}") from None
    try:
        return parse_tokens(text)
    except TokenFileError as error:
        raise TokenFileError(f"{path}: {error}") from None
