"""Checks of single values of a decoded body.

The `as_…` functions take any decoded value and return it typed, or raise `FieldError` with a reason that
does not name the place; each enclosing container adds its key to the error's path on the way out, so that
valid input pays nothing for it.
"""

from __future__ import annotations

from math import isfinite
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "MAX_ITEMS",
    "MAX_TEXT",
    "FieldError",
    "as_array",
    "as_binary",
    "as_boolean",
    "as_integer",
    "as_map",
    "as_number",
    "as_text",
]

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)
MAX_TEXT: Final = 65_536
"""Longest text in a body, in bytes of UTF-8, unless a shorter limit is declared."""
MAX_ITEMS: Final = 16_384
"""Most elements of one array or map in a body."""


class FieldError(ValueError):
    """A value is invalid for its place. `path` grows from the inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""

    def under(self, key: str | int) -> FieldError:
        """Return the same error one level further out: `key` is a map key or an index."""
        step = f"[{key}]" if isinstance(key, int) else key
        if not self.path:
            self.path = step
        elif self.path.startswith("["):
            self.path = step + self.path
        else:
            self.path = f"{step}.{self.path}"
        return self

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason

    def to_ipc(self, where: str) -> IpcError:
        """Return the `bad_request` to answer; `where` names the method or frame."""
        return IpcError(ErrorCode.BAD_REQUEST, f"{where}: {self}")


def _kind(value: object) -> str:
    names = {type(None): "nil", bool: "a boolean", int: "an integer", float: "a float", str: "text"}
    names |= {bytes: "binary", list: "an array", tuple: "an array", dict: "a map"}
    return names.get(type(value), type(value).__name__)


def as_text(value: object, max_bytes: int = MAX_TEXT, min_bytes: int = 0) -> str:
    """Check a str of `min_bytes` to `max_bytes` UTF-8 bytes."""
    if type(value) is not str:
        raise FieldError(f"text is expected, not {_kind(value)}")
    # A character has one to four bytes: only what lies between needs counting.
    if len(value) * 4 > max_bytes or len(value) < min_bytes:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise FieldError("the text is not valid Unicode") from None
        if size > max_bytes:
            raise FieldError(f"{size} bytes of text, at most {max_bytes} are allowed")
        if size < min_bytes:
            raise FieldError(f"{size} bytes of text, at least {min_bytes} are needed")
    return value


def as_binary(value: object, max_bytes: int = INT64_MAX, min_bytes: int = 0) -> bytes:
    """Check a bytes value of `min_bytes` to `max_bytes` bytes."""
    if type(value) is not bytes:
        raise FieldError(f"binary is expected, not {_kind(value)}")
    size = len(value)
    if not min_bytes <= size <= max_bytes:
        if min_bytes == max_bytes:
            raise FieldError(f"{size} bytes, exactly {max_bytes} are needed")
        if size > max_bytes:
            raise FieldError(f"{size} bytes, at most {max_bytes} are allowed")
        raise FieldError(f"{size} bytes, at least {min_bytes} are needed")
    return value


def as_integer(value: object, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
    """Check an int in `low`..`high`; bool and float are refused."""
    if type(value) is not int:
        raise FieldError(f"an integer is expected, not {_kind(value)}")
    if not low <= value <= high:
        raise FieldError(f"{value} is outside {low}..{high}")
    return value


def as_number(value: object, *, finite: bool = True) -> float:
    """Return an int or float as float; infinities and NaN only with `finite=False`."""
    if type(value) is not float and type(value) is not int:
        raise FieldError(f"a number is expected, not {_kind(value)}")
    number = float(value)
    if finite and not isfinite(number):
        raise FieldError(f"{number} is not a finite number")
    return number


def as_boolean(value: object) -> bool:
    if type(value) is not bool:
        raise FieldError(f"a boolean is expected, not {_kind(value)}")
    return value


def as_array(value: object, max_items: int = MAX_ITEMS) -> list[object] | tuple[object, ...]:
    """Check a list or tuple of at most `max_items` elements."""
    if type(value) is not list and type(value) is not tuple:
        raise FieldError(f"an array is expected, not {_kind(value)}")
    if len(value) > max_items:
        raise FieldError(f"{len(value)} elements, at most {max_items} are allowed")
    return value


def as_map(value: object, max_items: int = MAX_ITEMS) -> dict[str, object]:
    """Check a dict with str keys and at most `max_items` entries."""
    if type(value) is not dict:
        raise FieldError(f"a map is expected, not {_kind(value)}")
    if len(value) > max_items:
        raise FieldError(f"{len(value)} entries, at most {max_items} are allowed")
    for key in value:
        if type(key) is not str:
            raise FieldError(f"the key {key!r} of a map is not a text")
    return value
