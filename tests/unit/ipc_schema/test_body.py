from __future__ import annotations

from typing import Annotated, NamedTuple

import pytest

from ipc_schema.body import Bin8, Body, Range, Row, Size, Uint
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import FieldError
from ipc_schema.mapi.channels import ChannelCreateRequest


class Inner(Body):
    level: Annotated[int, Range(0, 9)]


class Outer(Body):
    id: Bin8
    inner: Inner
    many: tuple[Inner, ...] = ()
    rows: tuple[tuple[int, int | None], ...] = ()
    by_name: dict[str, Inner] | None = None
    names: Annotated[tuple[str, ...], Size(2)] = ()
    anything: object = None
    flag: bool = False


FULL = {
    "id": b"12345678",
    "inner": {"level": 1},
    "many": [{"level": 2}],
    "rows": [[1, None], [2, 3]],
    "by_name": {"a": {"level": 4}},
    "names": ["x"],
    "anything": [1, "a"],
    "flag": True,
}


def test_a_map_and_back() -> None:
    outer = Outer.from_body(FULL)
    assert outer.many == (Inner(level=2),)
    assert outer.rows == ((1, None), (2, 3))
    assert outer.by_name == {"a": Inner(level=4)}
    assert outer.to_body() == FULL


def test_absent_and_nil_take_the_default_and_none_is_not_written() -> None:
    outer = Outer.from_body({"id": b"12345678", "inner": {"level": 1}, "names": None, "unheard_of": 1})
    assert (outer.by_name, outer.names, outer.flag) == (None, (), False)
    assert "by_name" not in outer.to_body()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"id": None}, "Outer: id: is missing"),
        ({"id": b"1"}, "Outer: id: 1 bytes, exactly 8 are needed"),
        ({"inner": []}, "Outer: inner: a map is expected, not an array"),
        ({"inner": {}}, "Outer: inner.level: is missing"),
        ({"many": [{"level": 1}, {"level": 10}]}, "Outer: many[1].level: 10 is outside 0..9"),
        ({"rows": [[1]]}, "Outer: rows[0]: 1 elements, 2 are needed"),
        ({"rows": [[1, 2], [1, "x"]]}, "Outer: rows[1][1]: an integer is expected, not text"),
        ({"by_name": {"k": {"level": "x"}}}, "Outer: by_name.k.level: an integer is expected, not text"),
        ({"by_name": {b"k": {}}}, "Outer: by_name: the key b'k' of a map is not a text"),
        ({"names": ["a", "b", "c"]}, "Outer: names: 3 elements, at most 2 are allowed"),
        ({"flag": 1}, "Outer: flag: a boolean is expected, not an integer"),
    ],
)
def test_errors_name_the_place(change: dict[str, object], text: str) -> None:
    with pytest.raises(IpcError) as caught:
        Outer.from_body(FULL | change)
    assert (caught.value.code, caught.value.message) == (ErrorCode.BAD_REQUEST, text)


def test_rows_ignore_what_is_behind_them() -> None:
    assert Outer.from_body(FULL | {"rows": [[1, 2, "later"]]}).rows == ((1, 2),)


class Pair(NamedTuple):
    given: int
    first_one: Uint
    other: str | None


def test_row_reads_behind_the_skipped_fields() -> None:
    row = Row(Pair, skip=1)
    assert row.read((1, None, "later")) == [1, None]
    with pytest.raises(FieldError, match="first one: -1 is outside"):
        row.read((-1, None))
    with pytest.raises(FieldError, match="other: is missing"):
        row.read((1,))


class Wrong(Body):
    value: complex


class TwoTypes(Body):
    value: int | str


@pytest.mark.parametrize("cls", [Wrong, TwoTypes])
def test_what_cannot_stand_in_a_body_is_found_at_first_use(cls: type[Body]) -> None:
    with pytest.raises(TypeError):
        cls.from_body({"value": 1})


def test_a_body_shows_bytes_as_hex_and_keeps_a_repr_of_its_own() -> None:
    assert repr(Outer.from_body(FULL)).startswith("Outer(id=3132333435363738, inner=Inner(level=1)")
    request = ChannelCreateRequest(channel_id="team", content_topic="/a/1/b/proto", keys=(b"k" * 32,))
    assert repr(request) == "ChannelCreateRequest(channel_id='team', 1 keys)"
