"""The bodies in SPEC.md's tables of methods are those of the code: keys, which may be absent, types, bounds
and defaults.

A key of a request may be absent (`x?`) where the reader has a default; a key of a reply, where the writer
leaves it out (None). A type that a table leaves to the text is not compared.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from ipc_schema import control
from ipc_schema.body import Body, Empty, Method, Range, Size
from ipc_schema.fields import INT64_MAX
from ipc_schema.kernel import methods as kernel
from ipc_schema.mapi import control as mapi_control
from ipc_schema.mapi import methods as mapi
from tests.unit.ipc_schema.test_spec import rows, section

SERVERS = [
    ("kernel", ["Streams: leases", "Other methods"], kernel.METHODS),
    ("control", ["Control (kernel"], control.METHODS),
    ("mapi", ["Methods", "Reliable channels"], mapi.METHODS),
    ("mapi control", ["Control of a Messaging API"], mapi_control.METHODS),
]
IN_THE_TEXT = {
    ("kernel", "hello"): "its own table",
    ("kernel", "lightpush.publish", "request"): "as relay.publish",
    ("kernel", "node.info"): None,
    ("mapi", "node.info", "reply"): "as the kernel's",
}
"""Cells that say in words, or elsewhere, what the body is."""
WORDS: dict[str, tuple[type, object]] = {
    "str": (str, None),
    "bool": (bool, None),
    "uint": (int, Range(0, INT64_MAX)),
    "ns": (int, Range(-INT64_MAX - 1, INT64_MAX)),
    "bin": (bytes, None),
    "bin8": (bytes, Size(8, 8)),
    "bin16": (bytes, Size(16, 16)),
    "bin32": (bytes, Size(32, 32)),
}


def braces(text: str) -> str | None:
    """What stands in the first braces, inner ones included."""
    start = text.find("{")
    depth = 0
    for at, character in enumerate(text[max(start, 0) :], max(start, 0)):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "}" and depth == 0:
            return text[start + 1 : at]
    return None


def entries(inside: str) -> Iterator[str]:
    """The parts between commas that stand in no inner bracket."""
    depth, part = 0, ""
    for character in re.sub(r"(?<=\d),(?=\d)", "", inside) + ",":
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += character


def unwrap(hint: Any) -> tuple[Any, Any, bool]:
    """(type, its Size or Range, whether None is possible)."""
    limits = None
    nullable = False
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, limits = get_args(hint)[:2]
        elif origin in (Union, types.UnionType):
            inner = [argument for argument in get_args(hint) if argument is not type(None)]
            nullable = len(inner) < len(get_args(hint))
            (hint,) = inner
        else:
            return hint, limits, nullable


def body_in(hint: Any) -> type[Body] | None:
    """The body that a field holds: itself, or in an array."""
    hint, _, _ = unwrap(hint)
    if isinstance(hint, type) and issubclass(hint, Body):
        return hint
    return body_in(get_args(hint)[0]) if get_origin(hint) is tuple else None


def required(field: Field[Any]) -> bool:
    absent = field.default is MISSING and field.default_factory is MISSING
    return absent or bool(field.metadata.get("required", False))


def compare(inside: str, cls: type[Body], *, reply: bool, place: str) -> None:
    hints = get_type_hints(cls, include_extras=True)
    known = {field.name: field for field in fields(cls)}
    documented: set[str] = set()
    for entry in entries(inside):
        if not entry or entry.startswith("…"):
            continue
        found = re.match(r"([a-z_0-9]+) ?(\?)?", entry)
        assert found is not None, f"{place}: {entry!r}"
        name, rest = found[1], entry[found.end() :].strip()
        assert name in known, f"{place}: there is no {name}"
        documented.add(name)
        field, hint = known[name], hints[name]
        absent = unwrap(hint)[2] if reply else not required(field)
        assert absent is (found[2] == "?"), f"{place}: {name} {'may' if absent else 'must not'} be absent"
        inner = body_in(hint)
        if "{" in rest:
            assert inner is not None, f"{place}: {name} holds no map of keys"
            compare(braces(rest) or "", inner, reply=reply, place=f"{place}.{name}")
        elif rest:
            check_type(rest, hint, field, f"{place}.{name}")
    assert documented == set(known), f"{place}: undocumented: {sorted(set(known) - documented)}"


def check_type(text: str, hint: Any, field: Field[Any], place: str) -> None:
    kind, limits, _ = unwrap(hint)
    if text.startswith("["):
        assert get_origin(kind) is tuple, f"{place} is not an array"
        text = text[1:].partition("]")[0]
        kind, limits, _ = unwrap(get_args(kind)[0])
    word = text.partition(" ")[0]
    if word not in WORDS:
        return
    expected, bounds = WORDS[word]
    assert kind is expected, f"{place} is {kind}, not {word}"
    if span := re.search(r"uint ([\d,]+)–([\d,]+)", text):
        bounds = Range(*(int(number.replace(",", "")) for number in span.groups()))
    elif most := re.search(r"(?:uint|bin|str) ≤ ([\d,]+)", text):
        high = int(most[1].replace(",", ""))
        bounds = Range(0, high) if kind is int else Size(high)
    if bounds is not None:
        assert limits == bounds, f"{place}: {limits}, not {bounds}"
    elif kind is not str:
        assert limits is None, f"{place} has an undocumented bound: {limits}"
    if default := re.search(r"\(([\w.]+)\)", text):
        shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert shown == default[1].replace(",", ""), f"{place}: the default is {shown}"


def cells() -> Iterator[Any]:
    for server, titles, methods in SERVERS:
        for title in titles:
            for row in rows(section(title)):
                for name in re.findall(r"`([a-z_.]+)`", row[0]):
                    if name in methods and len(row) >= 3:
                        method: Method = methods[name]
                        yield pytest.param(
                            server, name, "request", row[1], method.request, id=f"{server} {name}"
                        )
                        yield pytest.param(
                            server, name, "reply", row[2], method.reply, id=f"{server} {name} reply"
                        )


@pytest.mark.parametrize(("server", "method", "side", "text", "cls"), list(cells()))
def test_the_body_is_as_the_table_says(
    server: str, method: str, side: str, text: str, cls: type[Body]
) -> None:
    for key in ((server, method), (server, method, side)):
        if IN_THE_TEXT.get(key) is not None:
            return
    inside = braces(text)
    assert inside is not None, f"{method}: no body in {text!r}"
    if cls is Empty:
        assert inside.strip() == ""
        return
    compare(inside, cls, reply=side == "reply", place=f"{server} {method} {side}")


TEXT_BOUNDS = {
    "peer": (1, 1024),
    "exclude": (1, 1024),
    "addresses": (1, 1024),
    "peer_id": (1, 256),
    "content_topics": (1, 1024),
    "stream": (1, 64),
    "enr": (1, 420),
    "enrs": (1, 420),
    "url": (1, 400),
    "name_server": (1, 64),
    "level": (1, 16),
    "logger": (0, 256),
    "features": (0, 64),
    "ids": (0, 64),
    "channel_id": (1, 512),
    "sender_id": (1, 512),
    "message_id": (1, 512),
    "error": (0, 1000),
    "profile": (1, 32),
    "kind": (1, 32),
    "name": (0, 64),
}
"""What SPEC.md says of texts in requests (of `content_topics`: in `filter.*`)."""


def text_bounds(hint: Any) -> tuple[int, int] | None:
    kind, limits, _ = unwrap(hint)
    if get_origin(kind) is tuple:
        return text_bounds(get_args(kind)[0])
    return (limits.low, limits.high) if kind is str and limits is not None else None


def test_texts_of_requests_are_bounded_as_documented() -> None:
    found: dict[str, set[tuple[int, int]]] = {}
    for _, _, methods in SERVERS:
        for method in methods.values():
            for name, hint in get_type_hints(method.request, include_extras=True).items():
                if (bounds := text_bounds(hint)) is not None:
                    found.setdefault(name, set()).add(bounds)
    # an app's name may not be empty where it is a must
    assert found.pop("name") <= {TEXT_BOUNDS["name"], (1, 64)}
    assert found == {name: {bounds} for name, bounds in TEXT_BOUNDS.items() if name != "name"}
    text = section("Requests and replies").partition("Texts of a request")[2].partition("\n- ")[0]
    for name, (low, high) in TEXT_BOUNDS.items():
        if name in ("kind", "name"):  # in the section about hello
            continue
        assert f"{low}–{high:,}" in text or f"≤ {high:,}" in text, name
