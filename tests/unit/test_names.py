"""Names that a reader can trust: one class for each public name, and no room looks into another's drawers."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    path.name: path
    for parent in (ROOT, ROOT / "client", ROOT / "deploy")
    for path in parent.iterdir()
    if path.name != "tests" and (path / "__init__.py").is_file()
}

# The blocking client has the names of the asyncio one on purpose, as its events have those of the contract.
TWINS = {
    ("logos_client.events", "ipc_schema.mapi.events"),
    ("logos_client.kernel_events", "ipc_schema.kernel.events"),
}


@cache
def modules() -> list[tuple[str, str, ast.Module]]:
    """Room, module name and syntax of each source file."""
    return [
        (
            room,
            ".".join(file.relative_to(path.parent).with_suffix("").parts),
            ast.parse(file.read_text(encoding="utf-8")),
        )
        for room, path in ROOMS.items()
        for file in sorted(path.rglob("*.py"))
    ]


def is_twin(names: list[str]) -> bool:
    """Whether these modules are meant to have the same names."""
    first, second = names if len(names) == 2 else ("", "")
    blocking = [name for name in names if "blocking" in name.split(".")]
    same_room = first.split(".")[0] == second.split(".")[0]
    return (first, second) in TWINS or (second, first) in TWINS or (len(blocking) == 1 and same_room)


def test_no_public_class_name_stands_twice() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for _, module, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    twice = {name: found for name, found in places.items() if len(found) > 1 and not is_twin(found)}
    assert not twice, "give the second one a name that says what it is the class of"


def test_no_room_imports_what_another_keeps_private() -> None:
    found = []
    for room, module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                head, *rest = name.split(".")
                private = any(part.startswith("_") and not part.startswith("__") for part in rest)
                if head in ROOMS and head != room and private:
                    found.append(f"{module}: {name}")
    assert not found
