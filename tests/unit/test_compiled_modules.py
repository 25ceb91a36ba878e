"""What mypyc takes for something else, in the modules that `deploy/compile.py` names.

Pure Python runs all of it: only a compiled build would fail, and only where the line is reached.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PLACES: Final = (ROOT, ROOT / "client", ROOT / "deploy")


PURE: Final = {"NamedTuple", "Enum", "IntEnum", "StrEnum", "Protocol", "IpcError", "TypedDict"}
"""Classes with these bases stay classes of Python."""


def compiler() -> ModuleType:
    spec = spec_from_file_location("logos_compile", ROOT / "deploy" / "compile.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trees() -> dict[str, tuple[str, ast.Module]]:
    """Path below the packages → group and tree, of each module that is compiled."""
    found = {}
    for group in (compiler().CLIENT, *compiler().NODE):
        for path in group.modules:
            (source,) = (place / path for place in PLACES if (place / path).is_file())
            found[path] = group.name, ast.parse(source.read_text(encoding="utf-8"))
    return found


def test_one_name_is_not_two_types_of_error_in_a_function() -> None:
    """mypyc gives the name the first type, and a TypeError for the second."""
    found = []
    for path, (_, tree) in trees().items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                types = defaultdict(set)
                for node in ast.walk(function):
                    if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                        types[node.name].add(ast.unparse(node.type))
                found += [(path, function.name, name) for name, one in types.items() if len(one) > 1]
    assert found == []


def test_a_compiled_class_is_a_base_within_its_group_only() -> None:
    """A base of another group or of Python cannot be made: TypeError when the first object is."""
    group_of = {
        node.name: group
        for group, tree in trees().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not any(ast.unparse(base) in PURE for base in node.bases)
    }
    compiled = {path: group for path, (group, _) in trees().items()}
    found = []
    for package in compiler()._sources().values():
        for source in package.rglob("*.py"):
            path = source.relative_to(package.parent).as_posix()
            own = compiled.get(path)
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                bases = node.bases if isinstance(node, ast.ClassDef) else []
                names = [base.id for base in bases if isinstance(base, ast.Name)]
                found += [(path, name) for name in names if group_of.get(name, own) != own]
    assert found == []


def test_what_is_shown_by_annotations_is_not_compiled() -> None:
    """mypyc keeps no `Annotated`: what a reader of declared bodies needs of it would be gone."""
    assert [path for path, (_, tree) in trees().items() if "Annotated[" in ast.unparse(tree)] == []
