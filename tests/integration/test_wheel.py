"""The built wheels in empty virtual environments, on each supported Python that this machine has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from tests.integration.logos_node import clean_environment, short_directory

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
RUNTIME_LOCK = ROOT / "requirements" / "runtime.lock"
CLIENT_PACKAGES = {"ipc_schema", "logos_client", "logos_sockets"}
NODE_PACKAGES = {"kernel_proc", "mapi_proc", "logos_gateway", "logos_bridge", "logos_deploy", "logos_process"}
PYTHONS = ("3.11", "3.12", "3.13")


def run(*command: str | Path, timeout: float = 300, cwd: Path | None = None, **environ: str) -> str:
    """Run to a good end and return what it printed."""
    environment = {**clean_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environ}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def interpreter(version: str) -> str:
    """The path of that Python on this machine; skip the test if it has none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = (shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python"))
    for candidate in candidates:
        # a shim of pyenv is found for every version and fails for those that are not selected
        if candidate and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return str(candidate)
    pytest.skip(f"no Python {version} here")


class Environment:
    """A virtual environment with nothing in it until something is installed. (By uv: pip takes minutes.)"""

    def __init__(self, path: Path, python: str = sys.executable) -> None:
        self.bin = path / "bin"
        run(UV, "venv", "--quiet", "--python", python, path)

    def install(self, *arguments: str | Path) -> None:
        """Install without a C compiler, as on a fresh machine."""
        command = (UV, "pip", "install", "--quiet", "--python", self.bin / "python")
        run(*command, *arguments, CC="/bin/false", CXX="/bin/false")

    def installed(self) -> set[str]:
        listed = json.loads(run(UV, "pip", "list", "--python", self.bin / "python", "--format", "json"))
        return {row["name"].lower().replace("_", "-") for row in listed}


def build(project: Path, target: Path) -> Path:
    run(UV, "build", "--quiet", "--wheel", "--out-dir", target, project)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / "client", tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def node_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("node"))


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def contents(wheel: Path) -> tuple[set[str], set[str], list[str]]:
    """Top-level packages, all names, and the requirements of a plain install (names only)."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        requirements = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
    top = {name.split("/")[0] for name in names}
    plain = [line for line in requirements if "extra ==" not in line]
    bare = sorted(line.split(">")[0].split("<")[0].split("=")[0] for line in plain)
    return {name for name in top if not name.endswith(".dist-info")}, names, bare


def test_the_wheels_hold_their_packages_with_types_and_nothing_else(
    client_wheel: Path, node_wheel: Path
) -> None:
    for wheel, packages in ((client_wheel, CLIENT_PACKAGES), (node_wheel, NODE_PACKAGES)):
        top, names, _ = contents(wheel)
        assert top == packages
        assert {f"{package}/py.typed" for package in packages} <= names
        assert not [name for name in names if "node_modules" in name or "__pycache__" in name]
        assert not [name for name in names if "vectors" in name]
    assert contents(client_wheel)[2] == ["msgpack", "pyzmq"]
    assert "logos-client" in contents(node_wheel)[2]


def test_the_source_distribution_of_the_client_builds_the_same_wheel(
    client_wheel: Path, tmp_path: Path
) -> None:
    run(UV, "build", "--quiet", "--sdist", "--out-dir", tmp_path, ROOT / "client")
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (project,) = (tmp_path / "source").iterdir()
    assert contents(build(project, tmp_path / "again")) == contents(client_wheel)


@pytest.mark.parametrize("version", PYTHONS)
def test_the_client_needs_pyzmq_and_msgpack_and_has_no_commands(
    client_wheel: Path, directory: Path, version: str
) -> None:
    environment = Environment(directory / "venv", interpreter(version))
    environment.install(client_wheel, "-c", RUNTIME_LOCK)
    assert environment.installed() == {"logos-client", "pyzmq", "msgpack"}
    assert not list(environment.bin.glob("logos*"))

    script = (
        "import logos_client.messaging, logos_client.kernel, logos_client.blocking, sys\n"
        f"assert sys.version_info[:2] == {tuple(int(part) for part in version.split('.'))}\n"
    )
    run(environment.bin / "python", "-W", "error", "-c", script, cwd=directory)


@pytest.mark.parametrize("version", PYTHONS)
def test_the_node_runs_from_the_runtime_lock_without_a_compiler(
    client_wheel: Path, node_wheel: Path, directory: Path, version: str
) -> None:
    """All commands work in the environment that the README describes, away from the repository."""
    environment = Environment(directory / "venv", interpreter(version))
    environment.install("--no-deps", "--require-hashes", "-r", RUNTIME_LOCK)
    environment.install("--no-deps", client_wheel, node_wheel)
    assert not environment.installed() & {"fastecdsa", "trio-typing", "pytest", "mypy", "ruff", "uv"}
    for command in ("logos", "logos-kernel", "logos-mapi", "logos-gateway"):
        assert "usage: " in run(environment.bin / command, "--help", cwd=directory)
    assert "exactly once" in run(environment.bin / "logos", "demo", timeout=100, cwd=directory)


def test_the_makefile_installs_the_runtime_without_a_compiler(directory: Path) -> None:
    """What `make demo` does first, on a machine without uv and without a compiler."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make here")
    venv = directory / "venv"
    arguments = (f"VENV={venv}", f"PYTHON={sys.executable}", "UV=")
    output = run(make, "-C", ROOT, "runtime", *arguments, CC="/bin/false", CXX="/bin/false")
    assert "runtime.lock" in output
    assert "usage: logos" in run(venv / "bin" / "logos", "--help", cwd=directory)
    installed = run(venv / "bin" / "python", "-m", "pip", "list", "--format", "freeze")
    assert not {"pytest", "mypy", "uv", "fastecdsa"} & {
        line.split("==")[0] for line in installed.splitlines()
    }
