"""The built wheel, in an empty virtual environment: a plain install is thin, an extra alone is enough."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from tests.integration.logos_node import clean_environment, short_directory, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
PACKAGES = {"ipc_schema", "kernel_proc", "mapi_proc", "logos_client", "logos_deploy"}


def run(*command: str | Path, timeout: float = 300, cwd: Path | None = None) -> str:
    """Run to a good end; what it printed."""
    environment = {**clean_environment(), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A virtual environment with nothing in it until something is installed. (By uv: pip takes minutes.)"""

    def __init__(self, path: Path) -> None:
        self.bin = path / "bin"
        run(UV, "venv", "--quiet", "--python", sys.executable, path)

    def install(self, *requirements: str) -> None:
        # The versions of the lock file, so that this tests our wheel and not today's releases.
        lock = ROOT / "requirements" / "dev.lock"
        python = self.bin / "python"
        run(UV, "pip", "install", "--quiet", "--python", python, "-c", str(lock), *requirements)

    def installed(self) -> set[str]:
        listed = json.loads(run(UV, "pip", "list", "--python", self.bin / "python", "--format", "json"))
        return {row["name"].lower().replace("_", "-") for row in listed}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, ROOT)
    (built,) = target.glob("logos_mapi-*.whl")
    return built


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def test_the_wheel_holds_the_packages_with_their_types_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        requirements = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist")
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert all(f"{package}/py.typed" in names for package in PACKAGES)
    assert not [name for name in names if "node_modules" in name or "__pycache__" in name]
    plain = [line for line in requirements or () if "extra ==" not in line]
    assert sorted(line.split(">")[0].split("<")[0] for line in plain) == ["msgpack", "pyzmq"]


def test_a_plain_install_is_the_thin_client(wheel: Path, directory: Path) -> None:
    environment = Environment(directory / "venv")
    environment.install(str(wheel))
    assert environment.installed() == {"logos-mapi", "pyzmq", "msgpack"}

    script = (
        "import sys, logos_client.messaging, logos_client.kernel\n"
        "heavy = {'libp2p', 'trio', 'uvloop', 'kernel_proc', 'mapi_proc', 'supervisor'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    run(environment.bin / "python", "-c", script, cwd=directory)
    assert "usage: logos" in run(environment.bin / "logos", "--help")
    for command in ("up", "demo"):
        done = subprocess.run(
            [environment.bin / "logos", command],
            capture_output=True,
            text=True,
            cwd=directory,
            env=clean_environment(),
        )
        assert done.returncode == 69
        assert "pip install 'logos-mapi[kernel,deploy,mapi]'" in done.stderr
    # the commands that ask a node work, and find none
    done = subprocess.run(
        [environment.bin / "logos", "status"],
        capture_output=True,
        text=True,
        cwd=directory,
        env=clean_environment(),
    )
    assert (done.returncode, done.stderr) == (69, "")


def test_the_kernel_extra_alone_runs_the_kernel(wheel: Path, directory: Path) -> None:
    environment = Environment(directory / "venv")
    environment.install(f"{wheel}[kernel]")
    assert not environment.installed() & {"uvloop", "supervisor", "pytest"}

    data_dir = directory / "node"
    log = directory / "kernel.log"
    with log.open("wb") as file:
        kernel = subprocess.Popen(
            [environment.bin / "logos-kernel", "--data-dir", data_dir, "--tcp-port", "0"],
            stderr=file,
            stdout=file,
            env=clean_environment(),
            cwd=directory,
        )
    try:
        control = data_dir / "run" / "kernel" / "control"
        wait_for(lambda: control.exists() or kernel.poll() is not None, "the control socket")

        def ready() -> bool:
            assert kernel.poll() is None, log.read_text()
            done = subprocess.run(
                [environment.bin / "logos", "status", "--json", "--data-dir", data_dir],
                capture_output=True,
                text=True,
                env=clean_environment(),
                cwd=directory,
            )
            if done.returncode:
                return False
            health = json.loads(done.stdout)["kernel"]
            assert health["pid"] == kernel.pid
            return bool(health["ready"])

        wait_for(ready, "the kernel's control socket says that it is ready")
    finally:
        kernel.terminate()
        assert kernel.wait(20) == 0, log.read_text()


def test_all_of_it_runs_a_supervised_node(wheel: Path, directory: Path) -> None:
    """`pip install 'logos-mapi[all]'` and `logos demo`, away from the repository."""
    environment = Environment(directory / "venv")
    environment.install(f"{wheel}[all]")
    text = run(environment.bin / "logos", "demo", timeout=100, cwd=directory)
    assert "exactly once" in text
    assert shutil.which("logos", path=os.fspath(environment.bin)) is not None
