"""The programs in examples/: they run as they stand, and are typed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.logos_node import clean_environment
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TOPIC = "/examples/1/room/plain"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A node in `data` with one peer."""
    with (
        short_directory() as path,
        KernelProcess(path / "other", "--shard=0") as other,
        KernelProcess(path / "data", f"--staticnode={other.address()}"),
        MapiProcess(path / "data") as mapi,
    ):
        _wait(mapi)
        yield path


def _wait(mapi: MapiProcess) -> None:
    @asyncio_test()
    async def ready() -> None:
        await mapi.ready()

    ready()


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]


def run(directory: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        command(name, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env=clean_environment(),
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_publish_waits_for_the_fate_and_echo_answers(directory: Path) -> None:
    echo = subprocess.Popen(
        command("echo.py", "data/run", TOPIC),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env=clean_environment(),
    )
    try:
        assert echo.stdout is not None
        assert echo.stdout.readline() == f"listening on {TOPIC}\n"
        assert run(directory, "publish.py", "data/run", TOPIC, "hello").startswith("propagated ")
        assert echo.stdout.readline() == "answered hello\n"
    finally:
        echo.kill()
        echo.communicate()


def test_an_app_brings_its_own_node(directory: Path) -> None:
    printed = run(directory, "own_node.py", "own").splitlines()
    assert printed[0].startswith("node 16Uiu2HA")
    assert printed[1] == "a note to myself"


def test_they_are_listed_and_typed() -> None:
    files = sorted(EXAMPLES.glob("*.py"))
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({file.name})" in listed for file in files)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *map(str, files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
