"""The programs of docs/clients.md: they run as they stand there, are typed, and leave no public name out."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import logos_client
import logos_deploy
from logos_client import blocking
from tests.integration.logos_node import clean_environment
from tests.support.aio import asyncio_test
from tests.support.dev_mode import complaints
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"
EXAMPLES: dict[str, str] = dict(
    re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
)
#: Methods that the parts of a client have for each other.
INTERNAL = {"ask", "hold", "drop", "put", "open_socket", "heartbeat", "lost"}


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a node in `data`, as the page has it, and another node that it can ask."""
    services = ("--store=true", "--filter=true", "--lightpush=true", "--peer-exchange=true")
    with (
        short_directory() as path,
        KernelProcess(path / "other", *services) as other,
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs(directory: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", EXAMPLES[name]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=directory,
        env=clean_environment(),
    )
    print(done.stdout)
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert "no connected peer offers" not in done.stdout


def test_all_are_typed_and_nothing_is_any(tmp_path: Path) -> None:
    """As a user's strict program would have it."""
    files = []
    for name, source in EXAMPLES.items():
        files.append(tmp_path / f"example_{name.replace('-', '_')}.py")
        files[-1].write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*command, "--disallow-any-expr", "--no-error-summary", *map(str, files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def public_names() -> set[str]:
    names = {*logos_client.__all__, *blocking.__all__, *logos_deploy.__all__}
    for owner in (
        logos_client.MessagingClient,
        logos_client.KernelClient,
        logos_client.KernelFeed,
        logos_client.ControlClient,
        logos_deploy.Node,
        blocking.MessagingClient,
        blocking.KernelClient,
        blocking.KernelFeed,
        blocking.ControlClient,
    ):
        names.update(name for name, _ in inspect.getmembers(owner) if not name.startswith("_"))
    return names - INTERNAL


def test_every_public_name_is_in_an_example() -> None:
    used: set[str] = set()
    for source in EXAMPLES.values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
    assert public_names() - used == set()


def test_nothing_is_imported_that_is_not_used() -> None:
    """An import alone would be no example."""
    for name, source in EXAMPLES.items():
        tree = ast.parse(source)
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert imported <= used, name
