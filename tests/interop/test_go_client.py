"""The Go client: its own tests, its kernel's half on a live kernel, and its chat with a Python one.

`tests/integration/test_conformance_live.py` drives its half of the Messaging API.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.ours import BUILD_SECONDS, Unavailable, go_program
from tests.interop.chat import chat_with_a_python_app
from tests.interop.kernel_kill import follow_a_kernel_through_a_kill
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = [pytest.mark.compiled_client, pytest.mark.integration, pytest.mark.timeout(BUILD_SECONDS)]

CLIENT = Path(__file__).parents[2] / "client" / "go"


@pytest.fixture(scope="module")
def adapter_command() -> list[str]:
    """The client's adapter, built. Skips where there is no Go."""
    try:
        return go_program("internal/adapter")
    except Unavailable as why:
        pytest.skip(str(why))


def go(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=CLIENT, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )


@pytest.mark.usefixtures("adapter_command")
def test_its_own_tests() -> None:
    """Vectors, contexts, restarts; with the detectors of races and of goroutines left behind."""
    for command in (("go", "vet", "./..."), ("go", "test", "-race", "./...")):
        done = go(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    if shutil.which("gofmt"):
        assert go("gofmt", "-l", ".").stdout == ""


def test_its_types_are_the_contracts() -> None:
    """`python client/make_go_contract.py` writes them."""
    done = go(sys.executable, str(CLIENT.parent / "make_go_contract.py"), "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_kernel_is_followed_through_a_kill(adapter_command: list[str]) -> None:
    follow_a_kernel_through_a_kill(adapter_command, "go")


@pytest.mark.usefixtures("adapter_command")
def test_the_chat_with_a_python_app() -> None:
    with short_directory() as path, KernelProcess(path), MapiProcess(path) as mapi:
        asyncio.run(_ready(mapi))
        chat_with_a_python_app(go_program("examples/chat"), mapi.run_dir, "gopher", "hello from Go")


async def _ready(mapi: MapiProcess) -> None:
    await mapi.ready()
