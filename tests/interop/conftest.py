"""Fixtures of the interoperability tests: the Node.js packages and js-waku nodes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.interop.js_waku import JS_FOLDER, JsWakuPeer
from tests.interop.kernel_peer import KernelPeer
from tests.interop.python_peer import RelayHostPeer
from tests.interop.relay_peer import RelayNode

NPM_CI_SECONDS = 240
MakeJsPeer = Callable[..., JsWakuPeer]
MakeOurPeer = Callable[..., RelayNode]


@pytest.fixture(scope="session")
def js_packages() -> None:
    """Install the locked npm packages if they are missing or older than the lock file.

    Skips only where there is no Node.js at all: a failing installation is a failure.
    """
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no `node` and `npm` here: js-waku cannot be run")
    lock = JS_FOLDER / "package-lock.json"
    installed = JS_FOLDER / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    done = subprocess.run(
        [npm, "ci", "--no-fund", "--no-audit"],
        cwd=JS_FOLDER,
        capture_output=True,
        text=True,
        timeout=NPM_CI_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"npm ci in {JS_FOLDER} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
    installed.touch()


@pytest.fixture
def make_js_peer(js_packages: None) -> Iterator[MakeJsPeer]:
    """Start js-waku nodes (arguments of `JsWakuPeer`); all are stopped when the test ends."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> JsWakuPeer:
            return stack.enter_context(JsWakuPeer(**arguments))

        yield make


def _maker(kind: type[RelayNode]) -> Iterator[MakeOurPeer]:
    with ExitStack() as stack:

        def make(**arguments: Any) -> RelayNode:
            return stack.enter_context(kind(**arguments))

        yield make


@pytest.fixture
def make_our_peer() -> Iterator[MakeOurPeer]:
    """Start kernels (arguments of `KernelPeer`); all are stopped when the test ends, with exit code 0."""
    yield from _maker(KernelPeer)


@pytest.fixture
def make_relay_host() -> Iterator[MakeOurPeer]:
    """The same without IPC (`RelayHostPeer`): when only kernels fail, the fault is above the relay."""
    yield from _maker(RelayHostPeer)
