"""What hypothesis draws for the contract: values, bodies by their declaration, and damaged frames."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack
from hypothesis import strategies as st

from ipc_schema.body import Body, Range, Size

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def attempt(call: Callable[[], T], kind: type[E]) -> T | E:
    """The value of a call, or the error of this kind that it raised; every other one is a failed test."""
    try:
        return call()
    except kind as error:
        return error


INT64 = st.integers(-(2**63), 2**63 - 1)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from([bytes(8), bytes(16), bytes(32), bytes(65)]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
"""Anything that msgpack can carry, of the kinds that the contract uses."""


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A frame that was right once: bytes changed, cut off, put in or doubled."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(["change", "cut", "insert", "tail"]))
        if how == "change" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=5))
        else:
            data += draw(st.binary(min_size=1, max_size=5))
    return bytes(data)


@st.composite
def replaced(draw: st.DrawFn, header: tuple[Any, ...]) -> bytes:
    """A header with some of its elements exchanged for anything, left out at the end, or followed by more."""
    items = list(header)
    for at in draw(st.lists(st.integers(0, len(items) - 1), max_size=3)):
        items[at] = draw(values)
    keep = draw(st.integers(0, len(items) + 1))
    items = items[:keep] if keep <= len(items) else [*items, draw(values)]
    packed: bytes = msgpack.packb(items)
    return packed


def frames_near(header: tuple[Any, ...]) -> st.SearchStrategy[bytes]:
    """Frames around a good header, and frames that have nothing to do with it."""
    good: bytes = msgpack.packb(header)
    return st.one_of(st.binary(max_size=64), values.map(msgpack.packb), damaged(good), replaced(header))


def of_annotation(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation of a `Body` (see `ipc_schema.body`) accepts."""
    limits: Any = None
    if get_origin(annotation) is Annotated:
        annotation, limits = get_args(annotation)[:2]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return st.one_of([of_annotation(argument) for argument in get_args(annotation)])
    if annotation is type(None):
        return st.none()
    if origin is tuple:
        arguments = get_args(annotation)
        if arguments[-1] is Ellipsis:
            return st.lists(of_annotation(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*[of_annotation(argument) for argument in arguments])
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), of_annotation(get_args(annotation)[1]), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return bodies(annotation)
    if annotation is str:
        low = limits.low if isinstance(limits, Size) else 0
        return st.text(min_size=low, max_size=max(low, min(8, limits.high // 4 if limits else 8)))
    if annotation is bytes:
        low = limits.low if isinstance(limits, Size) else 0
        return st.binary(min_size=low, max_size=max(low, min(40, limits.high if limits else 40)))
    if annotation is int:
        return st.integers(limits.low, limits.high) if isinstance(limits, Range) else INT64
    if annotation is float:
        return st.floats(allow_nan=False, allow_infinity=limits is not None)
    if annotation is bool:
        return st.booleans()
    if annotation is object:
        return st.none() | st.integers(0, 5) | st.text(max_size=5) | st.lists(st.booleans(), max_size=2)
    raise TypeError(annotation)


def bodies(cls: type[Body]) -> st.SearchStrategy[Any]:
    """Instances of a declared body."""
    hints = get_type_hints(cls, include_extras=True)
    parts = {field.name: of_annotation(hints[field.name]) for field in fields(cls)}
    return st.builds(cls, **parts)


def maps_near(cls: type[Body]) -> st.SearchStrategy[dict[str, Any]]:
    """Maps with the right keys and anything under them."""
    hints = get_type_hints(cls, include_extras=True)
    right = {field.name: of_annotation(hints[field.name]).map(_plain) | values for field in fields(cls)}
    required = {
        field.name: right.pop(field.name)
        for field in fields(cls)
        if field.default is MISSING and field.default_factory is MISSING
    }
    return st.fixed_dictionaries({}, optional=required | right | {"unheard_of": values})


def _plain(value: Any) -> Any:
    if isinstance(value, Body):
        return value.to_body()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
