from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import FieldError, Fields, as_map, as_number, as_text

BODY: dict[str, object] = {
    "text": "héllo",
    "bin": b"12345678",
    "int": 7,
    "bool": False,
    "texts": ["a", "b"],
    "ints": [1, 2],
    "nil": None,
}
F = Fields(BODY, "some.method")


def test_values_come_typed() -> None:
    assert F.text("text", max_bytes=6) == "héllo"
    assert F.binary("bin", length=8) == b"12345678"
    assert F.binary("bin", max=8) == b"12345678"
    assert F.integer("int", 0, 7) == 7
    assert F.boolean("bool") is False
    assert F.texts("texts", 2) == ["a", "b"]
    assert F.integers("ints", low=1, high=2) == [1, 2]


@pytest.mark.parametrize("key", ["nil", "absent"])
def test_nil_is_absent(key: str) -> None:
    assert not F.has(key)
    assert F.optional_text(key, None) is None
    assert F.optional_binary(key, b"") == b""
    assert F.optional_integer(key, 5) == 5
    assert F.optional_boolean(key, True) is True
    assert F.optional_texts(key, None) is None
    with pytest.raises(IpcError, match=rf"some\.method: {key}: is missing"):
        F.text(key)


def test_optional_values_are_checked_when_they_are_there() -> None:
    assert F.optional_integer("int", None) == 7
    with pytest.raises(IpcError):
        F.optional_text("int", None)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda: F.text("text", max_bytes=5), "some.method: text: 6 bytes of text, at most 5"),
        (lambda: F.text("bin"), "bin: text is expected, not binary"),
        (lambda: F.binary("bin", length=16), "bin: 8 bytes, exactly 16"),
        (lambda: F.binary("bin", max=7), "bin: 8 bytes, at most 7"),
        (lambda: F.binary("text"), "text: binary is expected, not text"),
        (lambda: F.integer("int", 8, 9), "int: 7 is outside 8..9"),
        (lambda: F.integer("bool"), "bool: an integer is expected, not a boolean"),
        (lambda: F.boolean("int"), "int: a boolean is expected, not an integer"),
        (lambda: F.texts("texts", 1), "texts: 2 elements, at most 1"),
        (lambda: F.texts("ints"), "ints[0]: text is expected, not an integer"),
        (lambda: F.integers("ints", low=2), "ints[0]: 1 is outside 2"),
        (lambda: F.integers("int"), "int: an array is expected, not an integer"),
    ],
)
def test_every_failure_is_a_bad_request_that_names_the_key(read: Callable[[], object], text: str) -> None:
    with pytest.raises(IpcError) as caught:
        read()
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert text in caught.value.message


def test_text_is_measured_in_bytes() -> None:
    assert as_text("€" * 10, 30, 30) == "€" * 10
    for limits in ((29, 0), (40, 31)):
        with pytest.raises(FieldError, match="30 bytes"):
            as_text("€" * 10, *limits)
    with pytest.raises(FieldError, match="Unicode"):
        as_text("\ud800", 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite_unless_said(value: float) -> None:
    with pytest.raises(FieldError, match="finite"):
        as_number(value)
    assert math.isnan(value) or as_number(value, finite=False) == value


def test_paths_grow_from_the_inside_out() -> None:
    error = FieldError("is bad").under(3).under("items").under("body")
    assert str(error) == "body.items[3]: is bad"
    assert str(error.to_ipc("method")) == "bad_request: method: body.items[3]: is bad"


def test_keys_of_maps_are_text() -> None:
    with pytest.raises(FieldError, match="not a text"):
        as_map({b"a": 1})
