"""Common to all events: a stable kind, a form for logs and JSON, and a readable repr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

#: Bytes made by apps, shown as they are; all others are ids, hashes and proofs, shown as hex.
_CONTENT = frozenset({"payload", "meta"})


class EventForm:
    """Base of the named tuples that an app gets as events."""

    __slots__ = ()

    kind: ClassVar[str] = ""
    """Name of the kind, the same in all languages and versions: `"message_received"`, …"""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values: `event` is the kind, the other keys are the fields.

        Bytes are hex.
        """
        return {"event": self.kind, **{name: _plain(getattr(self, name)) for name in _names(self)}}

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_shown(name, getattr(self, name))}" for name in _names(self))
        return f"{type(self).__name__}({fields})"


def _names(event: EventForm) -> tuple[str, ...]:
    names: tuple[str, ...] = event._fields  # type: ignore[attr-defined]
    return names


def _shown(name: str, value: object) -> str:
    return value.hex() if isinstance(value, bytes) and name not in _CONTENT else repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "to_body"):
        return _plain(value.to_body())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
