"""The JSON form of values in `vectors/frames.json`, as its head describes it."""

from __future__ import annotations

from typing import Any

_SAFE = 2**53 - 1


def to_json(value: object) -> Any:
    """bytes → {"$bin": hex}; integers beyond ±(2^53 - 1) → {"$int": decimal}; containers likewise inside."""
    if isinstance(value, bytes):
        return {"$bin": value.hex()}
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _SAFE else {"$int": str(value)}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value
    raise TypeError(type(value))


def from_json(value: Any) -> Any:
    """The inverse; arrays become lists."""
    if isinstance(value, dict):
        if value.keys() == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        if value.keys() == {"$int"}:
            return int(value["$int"])
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value
