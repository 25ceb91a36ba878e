"""What the generators of contracts share: how they read `ipc_schema`, and how they write their files.

Import it first: it makes the repository's packages importable.
"""

from __future__ import annotations

import difflib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "client")]

from ipc_schema.body import Body, Empty, Ns, Range  # noqa: E402
from ipc_schema.kernel import methods as kernel  # noqa: E402
from ipc_schema.mapi import events  # noqa: E402
from ipc_schema.mapi import methods as mapi  # noqa: E402
from logos_client.events import LinkLost, LinkRestored  # noqa: E402

UNIONS = (Union, types.UnionType)
#: Integers with a bound of their own, by the bound.
UINTS = {0xFF: "uint8", 0xFFFF_FFFF: "uint32"}
#: Events of the client's own.
LOCAL = (LinkLost, LinkRestored)
#: Fields common to all events, before those of its kind: of an app's stream, and of a kernel's.
COMMON = ("stream_id", "seq", "time_ns")
KERNEL_COMMON = ("instance", "epoch", "seq", "time_ns")


def class_name(kind: str) -> str:
    """`message_sent` → `MessageSent`."""
    return "".join(part.capitalize() for part in kind.split("_"))


def app_events() -> Iterator[tuple[int, str, type[Any]]]:
    """Yield number, kind and class of each event of an app's stream."""
    for kind in events.AppEventKind:
        if kind:  # heartbeats end in the client
            name = kind.name.lower()
            yield int(kind), name, getattr(events, class_name(name))


def bodies(*, requests: bool) -> list[type[Body]]:
    """Return the replies (and requests) of all methods, and what they contain, each once and before what
    contains it."""
    found: dict[type[Body], None] = {}

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, Body) and annotation is not Empty:
            for hint in fields_of(annotation).values():
                visit(hint)
            found.setdefault(annotation)
        for argument in get_args(annotation):
            visit(argument)

    for method in (*mapi.METHODS.values(), *kernel.METHODS.values()):
        if requests:
            visit(method.request)
        visit(method.reply)
    return list(found)


def fields_of(cls: type[Any]) -> dict[str, Any]:
    """Return field → annotation."""
    names: Any = getattr(cls, "_fields", None) or getattr(cls, "__dataclass_fields__")  # noqa: B009
    hints = get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in names}


def bare(annotation: Any) -> Any:
    """Return an annotation without the limits that `Annotated` adds."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def check_of(annotation: Any) -> str:
    """Return the name of the check in `frames.mjs`."""
    if annotation == Ns:
        return "ns"
    if get_origin(annotation) in UNIONS:
        return check_of(get_args(annotation)[0]) + "?"
    limits: Any = get_args(annotation)[1] if get_origin(annotation) is Annotated else None
    annotation = bare(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Body):
        return "map"
    if annotation is bytes and limits is None:
        return "bin"
    if annotation is bytes:
        return {(16, 16): "id", (32, 32): "hash", (64, 0): "meta", (32, 0): "bytes"}[limits.high, limits.low]
    if get_origin(annotation) is tuple:
        return "texts"
    if isinstance(limits, Range) and limits.high in UINTS:
        return UINTS[limits.high]
    return {str: "text", int: "uint", bool: "bool"}[annotation]


def write_or_check(generated: dict[Path, str], arguments: list[str]) -> int:
    """Write what differs from the files or, with `--check`, show how. Return 0 if written, or up to date."""
    stale = 0
    for path, wanted in generated.items():
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        if wanted == present:
            continue
        if arguments == ["--check"]:
            stale = 1
            lines = present.splitlines(keepends=True), wanted.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(*lines, str(path), "generated"))
        else:
            path.write_text(wanted, encoding="utf-8")
    return stale
