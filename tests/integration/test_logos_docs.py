"""The programs in README and docs, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.logos_node import LogosUp, clean_environment, short_directory

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def example(page: str, name: str) -> str:
    """The Python block behind `<!-- example: name -->`."""
    match = re.search(
        rf"<!-- example: {name} -->\n```python\n(.*?)```",
        (ROOT / page).read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert match is not None, f"{page} has no example {name}"
    return match[1]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a node in `data`, as the pages have it."""
    with short_directory() as path:
        node = LogosUp(path / "data")
        try:
            node.wait_said("the node is ready")
            yield path
        finally:
            node.close()


def run(directory: Path, source: str, *arguments: str, stdin: str = "") -> str:
    program = directory / "program.py"
    program.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=40,
        cwd=directory,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_app(directory: Path) -> None:
    source = example("README.md", "first-app")
    assert len([line for line in source.splitlines() if line.strip()]) <= 13
    numbers = []
    for _ in range(2):  # leaving it acknowledges what it has shown
        (line,) = [line for line in run(directory, source).splitlines() if "b'hello'" in line]
        numbers.append(int(re.search(r"seq=(\d+)", line)[1]))  # type: ignore[index]
    assert numbers[0] < numbers[1]


def test_the_chat(directory: Path) -> None:
    source = example("docs/build-an-app.md", "chat")
    program = directory / "chat.py"
    program.write_text(source, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, program, "data/run", "bob"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=clean_environment(),
    ) as bob:
        try:
            assert bob.stdin is not None
            assert bob.stdout is not None
            bob.stdin.write("I am here\n")
            bob.stdin.flush()
            run(directory, source, "data/run", "alice", stdin="hello bob\n")
            while "alice: hello bob" not in (line := bob.stdout.readline()):
                assert line
            bob.stdin.close()
            assert bob.wait(20) == 0
        finally:
            bob.kill()


def test_the_node_in_the_apps_own_process() -> None:
    with short_directory() as directory:
        first, second = run(directory, example("docs/build-an-app.md", "object")).splitlines()
    assert first == "a note to myself came back"
    assert second == "it waits for a peer", "there is none"


def test_the_kernel_client(directory: Path) -> None:
    output = run(directory, example("docs/clients.md", "kernel-client"))
    assert output.startswith("16Uiu2HA")
    assert "READY" in output
