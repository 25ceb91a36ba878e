"""What each module exports is what it says, and the protocol version is the same everywhere."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import ipc_schema

ROOT = Path(ipc_schema.__file__).parent
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(ROOT)], "ipc_schema.")
    if not info.name.startswith("ipc_schema.config")
)


def public_names(module: ModuleType) -> set[str]:
    """Classes and functions that the module itself defines under a public name."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", "") == module.__name__
    }


@pytest.mark.parametrize("name", ["ipc_schema", *MODULES])
def test_exports_exist_once(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert all(hasattr(module, item) for item in exported)
    assert len(set(exported)) == len(exported)


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_is_exported(name: str) -> None:
    module = importlib.import_module(name)
    assert public_names(module) <= set(getattr(module, "__all__", []))


def test_one_protocol_version() -> None:
    spec = (ROOT / "SPEC.md").read_text(encoding="utf-8")
    title = re.match(r"# The IPC contract, version (\d+)\n", spec)
    assert title is not None
    vectors = json.loads((ROOT / "vectors" / "frames.json").read_text(encoding="utf-8"))
    assert int(title[1]) == vectors["version"] == ipc_schema.PROTOCOL_VERSION
    assert 1 <= ipc_schema.PROTOCOL_MIN <= ipc_schema.PROTOCOL_VERSION


def test_the_contract_needs_nothing_but_msgpack() -> None:
    """No sockets, no event loop: importing the contract loads nothing else."""
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {MODULES!r}]; "
        "print([name for name in ('asyncio', 'zmq', 'trio', 'libp2p', 'socket') if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert found.stdout.strip() == "[]"
