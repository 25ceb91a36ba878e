"""Declared bodies: dataclasses whose annotations say how they are read and checked.

    class LeaseAcquire(Body):
        shards: tuple[Shard, ...]

`from_body(map)` checks and converts, `to_body()` is its inverse. Rules of the contract that hold everywhere:
unknown keys are ignored, nil is absent, an absent key takes the field's default or is an error, None is not
written. `field(default=…, metadata=REQUIRED)` is a default for writers that readers insist on. What an
annotation may be:

| annotation | on the wire |
|---|---|
| `str`, `bytes`, `int`, `float`, `bool` | the value; with `Annotated[…, Size(…)]` or `Range(…)` its limits |
| `object` | any value |
| `X | None` | the value or nil |
| `tuple[X, ...]` | array (limit by `Size`, in elements) |
| `tuple[X, Y]` | array of that length; extra tail elements are ignored |
| `dict[str, X]` | map |
| a `Body` | map |
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    NamedTuple,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from ipc_schema.fields import (
    INT64_MAX,
    INT64_MIN,
    MAX_ITEMS,
    MAX_TEXT,
    FieldError,
    as_array,
    as_binary,
    as_boolean,
    as_integer,
    as_map,
    as_number,
    as_text,
)

__all__ = [
    "REQUIRED",
    "AnyNumber",
    "Bin8",
    "Bin16",
    "Bin32",
    "Body",
    "Empty",
    "Method",
    "Ns",
    "Range",
    "Row",
    "Size",
    "Uint",
]


REQUIRED: Final[Mapping[str, bool]] = {"required": True}


class Size(NamedTuple):
    """Limits of a `str` or `bytes` (in bytes), or of a `tuple` or `dict` (in elements)."""

    high: int
    low: int = 0


class Range(NamedTuple):
    """Limits of an `int`, both inclusive."""

    low: int
    high: int


class _NotFinite(NamedTuple):
    """Marks a `float` that may be infinite or NaN."""


Uint = Annotated[int, Range(0, INT64_MAX)]
"""An unsigned integer; the contract stays within 63 bits, so that every language and SQLite can hold it."""
Ns = Annotated[int, Range(INT64_MIN, INT64_MAX)]
"""Nanoseconds since the Unix epoch."""
Bin8 = Annotated[bytes, Size(8, 8)]
Bin16 = Annotated[bytes, Size(16, 16)]
Bin32 = Annotated[bytes, Size(32, 32)]
AnyNumber = Annotated[float, _NotFinite()]

_Reader = Callable[[Any], Any]
_Writer = Callable[[Any], Any]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Body:
    """Base of declared bodies: makes each subclass a frozen dataclass with keyword-only fields."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True, repr=False)(cls)

    def __repr__(self) -> str:
        """Represent it like a dataclass, but with bytes as hex: they are ids, hashes and records."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        shown = (
            f"{name}={value.hex() if isinstance(value, bytes) else repr(value)}" for name, value in values
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"

    @classmethod
    def from_body(cls, body: Mapping[str, object], where: str = "") -> Self:
        """Validate a decoded map. Raises `IpcError` (`bad_request`), which names `where` it stands: the
        method of a request, by default the class."""
        try:
            return cls(**_read_values(cls, body))
        except FieldError as error:
            raise error.to_ipc(where or cls.__name__) from None

    def to_body(self) -> dict[str, object]:
        """Return the map of msgpack values, without fields that are None."""
        body: dict[str, object] = {}
        for name, _, write, _ in _plan(type(self)):
            value = getattr(self, name)
            if value is not None:
                body[name] = value if write is None else write(value)
        return body


class _Field(NamedTuple):
    name: str
    read: _Reader
    write: _Writer | None  # None: the value needs no conversion
    required: bool


_plans: dict[type[Body], tuple[_Field, ...]] = {}


def _plan(cls: type[Body]) -> tuple[_Field, ...]:
    """Return the readers and writers of a class's fields, derived from its annotations on first use."""
    known = _plans.get(cls)
    if known is not None:
        return known
    hints = get_type_hints(cls, include_extras=True)
    plan = []
    for one in fields(cls):
        read, write = _codec(hints[one.name])
        required = one.default is MISSING and one.default_factory is MISSING
        required = required or one.metadata.get("required", False)
        plan.append(_Field(one.name, read, write, required))
    return _plans.setdefault(cls, tuple(plan))


def _read_values(cls: type[Body], body: Mapping[str, object]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, read, _, required in _plan(cls):
        value = body.get(name)
        if value is None:
            if required:
                raise FieldError("is missing").under(name)
            continue
        try:
            values[name] = read(value)
        except FieldError as error:
            raise error.under(name) from None
    return values


class Empty(Body):
    """A body without fields."""


class Method(NamedTuple):
    """The body types of one method."""

    request: type[Body]
    reply: type[Body]


class Row:
    """Reads the elements of an append-only array by the annotations of a NamedTuple.

    The first `skip` fields of the class are filled by the caller, who has checked them already.
    """

    __slots__ = ("_columns", "cls", "skip")

    def __init__(self, cls: type[Any], skip: int = 0) -> None:
        hints = get_type_hints(cls, include_extras=True)
        names: tuple[str, ...] = cls._fields
        self.cls = cls
        self.skip = skip
        self._columns = tuple((name.replace("_", " "), _codec(hints[name])[0]) for name in names[skip:])

    def read(self, values: tuple[Any, ...]) -> list[Any]:
        """Return the checked elements; further elements of `values` are ignored. Raises `FieldError`."""
        if len(values) < len(self._columns):
            missing = self._columns[len(values)][0]
            raise FieldError("is missing").under(missing)
        result = []
        for (name, read), value in zip(self._columns, values, strict=False):
            try:
                result.append(read(value))
            except FieldError as error:
                raise error.under(name) from None
        return result


# --- from annotations to readers and writers --------------------------------------------------------------


def _codec(annotation: Any) -> tuple[_Reader, _Writer | None]:
    limits: Any = None
    if get_origin(annotation) is Annotated:
        annotation, limits = get_args(annotation)[:2]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"{annotation} is not one type or None")
        return _optional(*_codec(inner[0]))
    if origin is tuple:
        arguments = get_args(annotation)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return _array(*_codec(arguments[0]), limits.high if limits else MAX_ITEMS)
        return _row([_codec(argument) for argument in arguments])
    if origin is dict:
        return _map(*_codec(get_args(annotation)[1]), limits.high if limits else MAX_ITEMS)
    if isinstance(annotation, type) and issubclass(annotation, Body):
        cls = annotation
        return (lambda value: cls(**_read_values(cls, as_map(value)))), cls.to_body
    return _scalar(annotation, limits), None


def _scalar(annotation: Any, limits: Any) -> _Reader:
    if annotation is str:
        size = limits or Size(MAX_TEXT)
        return lambda value: as_text(value, size.high, size.low)
    if annotation is bytes:
        size = limits or Size(INT64_MAX)
        return lambda value: as_binary(value, size.high, size.low)
    if annotation is int:
        low, high = limits or Range(INT64_MIN, INT64_MAX)
        return lambda value: as_integer(value, low, high)
    if annotation is float:
        finite = limits is None
        return lambda value: as_number(value, finite=finite)
    if annotation is bool:
        return as_boolean
    if annotation is object:
        return lambda value: value
    raise TypeError(f"{annotation} cannot stand in a body")


def _optional(read: _Reader, write: _Writer | None) -> tuple[_Reader, _Writer | None]:
    def read_optional(value: Any) -> Any:
        return None if value is None else read(value)

    if write is None:
        return read_optional, None
    writer = write
    return read_optional, lambda value: None if value is None else writer(value)


def _array(read: _Reader, write: _Writer | None, high: int) -> tuple[_Reader, _Writer]:
    def read_array(value: Any) -> tuple[Any, ...]:
        items = as_array(value, high)
        done = 0
        result = []
        try:
            for item in items:
                result.append(read(item))
                done += 1
        except FieldError as error:
            raise error.under(done) from None
        return tuple(result)

    if write is None:
        return read_array, list
    writer = write
    return read_array, lambda value: [writer(item) for item in value]


def _row(columns: list[tuple[_Reader, _Writer | None]]) -> tuple[_Reader, _Writer]:
    def read_row(value: Any) -> tuple[Any, ...]:
        items = as_array(value)
        if len(items) < len(columns):
            raise FieldError(f"{len(items)} elements, {len(columns)} are needed")
        result = []
        for index, ((read, _), item) in enumerate(zip(columns, items, strict=False)):
            try:
                result.append(read(item))
            except FieldError as error:
                raise error.under(index) from None
        return tuple(result)

    def write_row(value: Any) -> list[Any]:
        return [
            item if write is None else write(item) for (_, write), item in zip(columns, value, strict=True)
        ]

    return read_row, write_row


def _map(read: _Reader, write: _Writer | None, high: int) -> tuple[_Reader, _Writer | None]:
    def read_map(value: Any) -> dict[str, Any]:
        result = {}
        for key, item in as_map(value, high).items():
            try:
                result[key] = read(item)
            except FieldError as error:
                raise error.under(key) from None
        return result

    if write is None:
        return read_map, None
    writer = write
    return read_map, lambda value: {key: writer(item) for key, item in value.items()}
