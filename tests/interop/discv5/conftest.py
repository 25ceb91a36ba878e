"""Fixtures of the discv5 interoperability tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.interop.discv5.js_node import FOLDER, JsNode

NPM_CI_SECONDS = 240
MakeJsNode = Callable[..., JsNode]


@pytest.fixture(scope="session")
def discv5_packages() -> None:
    """Install the locked npm packages if they are missing or older than the lock file.

    Skips only where there is no Node.js at all: a failing installation is a failure.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no `node` and `npm` here: @chainsafe/discv5 cannot be run")
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= (FOLDER / "package-lock.json").stat().st_mtime:
        return
    done = subprocess.run(
        [npm, "ci", "--no-fund", "--no-audit"],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=NPM_CI_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"npm ci in {FOLDER} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    installed.touch()


@pytest.fixture
def make_js_node(discv5_packages: None) -> Iterator[MakeJsNode]:
    """Start nodes of @chainsafe/discv5 (arguments of `JsNode`); all are stopped when the test ends."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> JsNode:
            node = JsNode(**arguments)
            stack.callback(node.close)
            return node

        yield make
