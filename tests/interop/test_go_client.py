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

from conformance.ours import Unavailable, go_program
from logos_client import ChannelMessageReceived, MessagingClient
from tests.interop.kernel_kill import follow_a_kernel_through_a_kill
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import collect

pytestmark = [pytest.mark.interop, pytest.mark.integration]

CLIENT = Path(__file__).parents[2] / "client" / "go"
CHAT_TOPIC = "/my-chat/1/room/plain"
SECONDS = 400


@pytest.fixture(scope="module")
def adapter_command() -> list[str]:
    """The client's adapter, built. Skips where there is no Go."""
    try:
        return go_program("internal/adapter")
    except Unavailable as why:
        pytest.skip(str(why))


def go(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=CLIENT, capture_output=True, text=True, timeout=SECONDS, check=False)


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
    (program,) = go_program("examples/chat")
    with short_directory() as path, KernelProcess(path), MapiProcess(path) as mapi:
        asyncio.run(_ready(mapi))
        with subprocess.Popen(
            [program, str(mapi.run_dir), "gopher"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as chat:
            try:
                assert chat.stdin is not None
                assert chat.stdout is not None
                chat.stdin.write("hello from Go\n")
                chat.stdin.flush()

                @asyncio_test(40)
                async def talk() -> None:
                    async with MessagingClient.connect(mapi.run_dir, name="snake") as python:
                        await python.create_channel("room", CHAT_TOPIC, sender_id="snake")
                        await python.send_to_channel("room", b"hello from Python")
                        (heard,) = await collect(python, ChannelMessageReceived, 1)
                        assert (heard.sender_id, heard.payload) == ("gopher", b"hello from Go")

                talk()
                while "snake: hello from Python" not in (line := chat.stdout.readline()):
                    assert line
                chat.stdin.close()
                assert chat.wait(20) == 0
            finally:
                chat.kill()


async def _ready(mapi: MapiProcess) -> None:
    await mapi.ready()
