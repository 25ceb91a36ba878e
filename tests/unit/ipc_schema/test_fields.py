from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest

from ipc_schema.fields import (
    FieldError,
    as_array,
    as_binary,
    as_boolean,
    as_integer,
    as_map,
    as_number,
    as_text,
)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda: as_text("héllo", 5), "6 bytes of text, at most 5"),
        (lambda: as_text(b"12345678"), "text is expected, not binary"),
        (lambda: as_binary(b"12345678", 16, 16), "8 bytes, exactly 16"),
        (lambda: as_binary(b"12345678", 7), "8 bytes, at most 7"),
        (lambda: as_binary("héllo"), "binary is expected, not text"),
        (lambda: as_integer(7, 8, 9), "7 is outside 8..9"),
        (lambda: as_integer(False), "an integer is expected, not a boolean"),
        (lambda: as_boolean(7), "a boolean is expected, not an integer"),
        (lambda: as_array(["a", "b"], 1), "2 elements, at most 1"),
        (lambda: as_array(7), "an array is expected, not an integer"),
    ],
)
def test_a_failure_says_what_was_expected(read: Callable[[], object], text: str) -> None:
    with pytest.raises(FieldError, match=re.escape(text)):
        read()


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
