"""Kinds of option values: how each is parsed from text or TOML, and how it is displayed.

A parser takes what TOML gives (bool, int, float, str) or the text of a flag or environment variable, and
raises `ValueError` with a text that says what was expected. Parsers of secrets never quote the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from math import isfinite
from typing import Any, Final

from ipc_schema.config.addresses import check_endpoint, check_entry_node, check_peer_address
from ipc_schema.topics import MAX_SHARD_COUNT

ALL: Final = "all"
NONE: Final = "none"


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """A named grammar.

    `show` turns a parsed value back into something that `parse` accepts (text, int or bool).
    """

    name: str
    parse: Callable[[object], Any]
    show: Callable[[Any], str | int | bool] = _same


def text_of(raw: object) -> str:
    """Return the value as text. Raises `ValueError` for another type and for control characters."""
    if not isinstance(raw, str):
        raise ValueError(f"expected text, not {raw!r}")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in raw):
        raise ValueError("control characters are not allowed")
    return raw


def checked(check: Callable[[str], object]) -> Callable[[object], str]:
    """Return the parser of a text that `check` does not refuse."""

    def parse(raw: object) -> str:
        text = text_of(raw)
        check(text)
        return text

    return parse


# --- plain values -----------------------------------------------------------------------------------------

_TRUE: Final = frozenset({"true", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "n", "off", "0"})


def _parse_boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        word = raw.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    raise ValueError(f"{raw!r} is neither true nor false")


def _parse_whole(raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,19}", raw.strip()):
        return int(raw)
    raise ValueError(f"{raw!r} is not a whole number")


def _within(value: Any, low: Any, high: Any, show: Callable[[Any], Any] = _same) -> Any:
    if not low <= value <= high:
        raise ValueError(f"{show(value)} is not in {show(low)}..{show(high)}")
    return value


def integer(low: int, high: int, name: str = "integer") -> Kind:
    return Kind(name, lambda raw: _within(_parse_whole(raw), low, high))


def _parse_shard(raw: object) -> int | str:
    word = raw.strip().lower() if isinstance(raw, str) else ""
    if word in (ALL, NONE):
        return word
    try:
        return int(_within(_parse_whole(raw), 0, MAX_SHARD_COUNT - 1))
    except ValueError as error:
        raise ValueError(f"{error}; expected a shard, or {ALL}, or {NONE}") from None


SHARD: Final = Kind("shard", _parse_shard)
"""A number, or one of the words for every shard and for none."""


def choice(name: str, allowed: Iterable[str], also: Mapping[str, str] | None = None) -> Kind:
    """Declare one of `allowed` (any case; `also` maps other spellings). Values are spelt as in `allowed`."""
    words = {word.lower(): word for word in allowed}
    words.update({word.lower(): target for word, target in (also or {}).items()})
    shown = ", ".join(dict.fromkeys(words.values()))

    def parse(raw: object) -> str:
        word = words.get(text_of(raw).strip().lower())
        if word is None:
            raise ValueError(f"{raw!r} is none of {shown}")
        return word

    return Kind(name, parse)


# --- sizes and durations ----------------------------------------------------------------------------------

# nwaku accepts KiB, KB and B; the larger units are for budgets that nwaku does not have.
_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "kib": 1024,
    "mb": 1000**2,
    "mib": 1024**2,
    "gb": 1000**3,
    "gib": 1024**3,
}
_SIZE: Final = re.compile(r"\s*([0-9]{1,15})(?:[.,]([0-9]{0,9}))?\s*([a-z]*)\s*", re.IGNORECASE)
_SIZE_SHOWN: Final = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))


def parse_size(raw: object) -> int:
    """Return the bytes of `150KiB`, `1.5 MB`, `153600B`, `153600` or an integer.

    Units in any case; fractions of a byte are truncated. A decimal comma is read as a point, as nwaku does.
    """
    if isinstance(raw, int) and not isinstance(raw, bool):
        if raw < 0:
            raise ValueError(f"{raw} is negative")
        return raw
    match = _SIZE.fullmatch(raw) if isinstance(raw, str) else None
    unit = _SIZE_UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{raw!r} is not a size such as 150KiB, 64MiB or 153600B")
    fraction = match[2] or ""
    return int(match[1]) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def format_size(size: int) -> str:
    """Return the shortest exact text that `parse_size` accepts: `150KiB`, `1500B`."""
    for name, unit in _SIZE_SHOWN:
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}B"


def size(low: int, high: int) -> Kind:
    """Declare a number of bytes in low..high."""
    return Kind("size", lambda raw: _within(parse_size(raw), low, high, format_size), format_size)


_DURATION_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d|)\s*", re.IGNORECASE)


def parse_duration(raw: object) -> float:
    """Return the seconds of `60s`, `1500ms`, `10m`, `12h`, `7d`, or a plain number of seconds; to the
    nanosecond."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        if not isfinite(raw) or raw < 0:
            raise ValueError(f"{raw} is not a duration")
        return round(float(raw), 9)
    match = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise ValueError(f"{raw!r} is not a duration such as 60s, 1500ms, 10m, 12h or 7d")
    return round(float(match[1]) * _DURATION_UNITS[match[2].lower()], 9)


def format_duration(seconds: float) -> str:
    """Return a text that `parse_duration` accepts: `60s`, `7d`, `0.5s`."""
    for name in ("d", "h", "m"):
        unit = _DURATION_UNITS[name]
        if seconds >= 2 * unit and seconds % unit == 0:
            return f"{int(seconds // unit)}{name}"
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds:.9f}".rstrip("0") + "s"


def duration(low: float, high: float) -> Kind:
    """Declare seconds (float) in low..high."""
    return Kind(
        "duration", lambda raw: _within(parse_duration(raw), low, high, format_duration), format_duration
    )


# --- keys and shards --------------------------------------------------------------------------------------

_SECP256K1_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


def _parse_private_key(raw: object) -> bytes:
    text = raw.strip() if isinstance(raw, str) else ""
    if not re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", text):
        raise ValueError("expected 64 hex digits (a secp256k1 private key); the value is not shown")
    key = bytes.fromhex(text[-64:])
    if not 0 < int.from_bytes(key, "big") < _SECP256K1_ORDER:
        raise ValueError("outside the range of secp256k1 private keys; the value is not shown")
    return key


@dataclass(frozen=True, slots=True)
class ProtectedShard:
    """A shard on which only messages signed with one secp256k1 key are relayed."""

    shard: int
    public_key: bytes
    """33 bytes (compressed) or 65 (uncompressed)."""

    def __str__(self) -> str:
        return f"{self.shard}:{self.public_key.hex()}"


def _parse_protected_shard(raw: object) -> ProtectedShard:
    match = re.fullmatch(r"([0-9]{1,4}):(?:0x)?(0[23][0-9a-f]{64}|04[0-9a-f]{128})", text_of(raw).lower())
    if match is None:
        raise ValueError(f"{raw!r} is not <shard>:<secp256k1 public key in hex, 33 or 65 bytes>")
    return ProtectedShard(_within(int(match[1]), 0, MAX_SHARD_COUNT - 1), bytes.fromhex(match[2]))


# --- the closed set ---------------------------------------------------------------------------------------

LOG_LEVELS: Final[Mapping[str, int]] = {
    "TRACE": 5,
    "DEBUG": 10,
    "INFO": 20,
    "NOTICE": 25,
    "WARN": 30,
    "ERROR": 40,
    "FATAL": 50,
}
"""nwaku's levels as numbers of the standard library's `logging`."""

BOOLEAN: Final = Kind("boolean", _parse_boolean)
TEXT: Final = Kind("text", text_of)
PORT: Final = integer(0, 65535, "port")
LOG_LEVEL: Final = choice("log level", LOG_LEVELS, {"warning": "WARN", "critical": "FATAL"})
LOG_FORMAT: Final = choice("log format", ("TEXT", "JSON"))
MULTIADDR: Final = Kind("multiaddr", checked(check_peer_address))
ENTRY_NODE: Final = Kind("multiaddr, enr or enrtree", checked(check_entry_node))
ENDPOINT: Final = Kind("endpoint", checked(check_endpoint))
PRIVATE_KEY: Final = Kind("private key", _parse_private_key, bytes.hex)
PROTECTED_SHARD: Final = Kind("shard:public key", _parse_protected_shard, str)


def _parse_path(raw: object) -> str:
    text = text_of(raw)
    if not text:
        raise ValueError("expected a path")
    return text


def _parse_ip(raw: object) -> str:
    text = text_of(raw).strip()
    try:
        address = str(ip_address(text))
    except ValueError:
        raise ValueError(f"{raw!r} is not an IP address") from None
    if "%" in address:
        raise ValueError(f"{raw!r}: an address with a zone cannot be announced; give one without")
    return address


PATH: Final = Kind("path", _parse_path)
IP_ADDRESS: Final = Kind("IP address", _parse_ip)
