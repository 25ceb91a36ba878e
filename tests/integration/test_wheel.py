"""The built wheels in empty virtual environments, on each supported Python that this machine has."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.parser import Parser
from pathlib import Path

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import clean_environment, short_directory, wait_for
from tests.unit.logos_deploy.container_files import instructions

pytestmark = [pytest.mark.integration, pytest.mark.distribution, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
RUNTIME_LOCK = ROOT / "requirements" / "runtime.lock"
CLIENT_PACKAGES = {"ipc_schema", "logos_client", "logos_sockets"}
NODE_PACKAGES = {"kernel_proc", "mapi_proc", "logos_gateway", "logos_bridge", "logos_deploy", "logos_process"}
INSTALLING_PAGES = ("docs/build-an-app.md", "docs/operate.md")
PYTHONS = ("3.11", "3.12", "3.13")
COMPILING_SECONDS = 800.0


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

    def __init__(self, path: Path, python: str = sys.executable, *further: str) -> None:
        self.bin = path / "bin"
        run(UV, "venv", "--quiet", "--python", python, *further, path)

    def install(self, *arguments: str | Path) -> None:
        """Install without a C compiler, as on a fresh machine."""
        command = (UV, "pip", "install", "--quiet", "--python", self.bin / "python")
        run(*command, *arguments, CC="/bin/false", CXX="/bin/false")

    def installed(self) -> set[str]:
        listed = json.loads(run(UV, "pip", "list", "--python", self.bin / "python", "--format", "json"))
        return {row["name"].lower().replace("_", "-") for row in listed}


def build(project: Path, target: Path, compiled: str = "0") -> Path:
    command = (UV, "build", "--quiet", "--wheel", "--python", sys.executable)
    run(*command, "--out-dir", target, project, timeout=COMPILING_SECONDS, LOGOS_COMPILED=compiled)
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


@pytest.mark.timeout(COMPILING_SECONDS * 2)
def test_compiled_wheels_run(client_wheel: Path, node_wheel: Path, directory: Path) -> None:
    """Both have what the pure ones have, and extension modules beside it, which are what runs."""
    environment = Environment(directory / "venv")
    environment.install("--no-deps", "--require-hashes", "-r", RUNTIME_LOCK)
    for project, pure in ((ROOT / "client", client_wheel), (ROOT, node_wheel)):
        wheel = build(project, directory / pure.stem, compiled="1")
        assert "none-any" not in wheel.name
        names = {name for name in contents(wheel)[1] if ".dist-info/" not in name}
        further = names - contents(pure)[1]
        assert contents(pure)[1] - names == {name for name in contents(pure)[1] if ".dist-info/" in name}
        assert further
        assert all(name.endswith(".so") for name in further)
        environment.install("--no-deps", wheel)
    modules = [
        "ipc_schema.frames",
        "logos_sockets.drain",
        "kernel_proc.relay.intake",
        "mapi_proc.send.acceptance",
    ]
    script = f"import {', '.join(modules)}, sys; print([sys.modules[name].__file__ for name in {modules}])"
    assert run(environment.bin / "python", "-c", script, cwd=directory).count(".so'") == len(modules)
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


def test_the_pages_install_a_node_by_commands_that_pip_takes(directory: Path) -> None:
    """The lines of the three pages as a reader copies them, in a clone; with pip itself, which is stricter
    than uv about what stands beside hashes."""
    pages = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", *INSTALLING_PAGES)]
    installs = [re.findall(r"^\$ (pip install --no-deps [^#\n]+)", page, re.MULTILINE) for page in pages]
    assert installs[0]
    assert installs == [installs[0]] * len(pages)
    upgrade = re.findall(r"`(pip install --no-deps [^`]+)`", pages[-1])
    assert upgrade == [line.strip() for line in installs[0]]

    run(sys.executable, "-m", "venv", directory / "venv")
    script = "\n".join(["set -e", f". {directory}/venv/bin/activate", *installs[0]])
    run("bash", "-c", script, cwd=ROOT, CC="/bin/false", CXX="/bin/false")
    assert "usage: logos" in run(directory / "venv" / "bin" / "logos", "--help", cwd=directory)


@pytest.fixture(scope="module")
def container_venv(client_wheel: Path, node_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has in /opt/logos; it works there, too."""
    path = tmp_path_factory.mktemp("container") / "logos"
    environment = Environment(path, sys.executable, "--relocatable")
    environment.install("--no-deps", "--require-hashes", "-r", RUNTIME_LOCK)
    # pip compiles by default
    environment.install("--compile-bytecode", "--no-deps", client_wheel, node_wheel)
    return path


# An empty root with nothing of this host but its programs and Python, like that of the image: read-only,
# with a volume and a temporary directory.
EMPTY_ROOT = """
set -eu
root=$1 venv=$2 volume=$3 python=$4 user=$5
shift 5
ip link set lo up
mount -t tmpfs -o mode=755 root "$root"
bind() { mkdir -p "$root$2"; mount --bind -o "$3" "$1" "$root$2"; }
for name in bin lib lib64 sbin; do [ ! -e "/$name" ] || ln -s "usr/$name" "$root/$name"; done
bind /usr /usr ro
bind "$python" "$python" ro
bind "$venv" /opt/logos ro
bind /dev /dev rw
bind /proc /proc rw
bind "$volume" /var/lib/logos rw
mkdir -p "$root/tmp" "$root/etc"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
echo "logos:x:$user::/var/lib/logos:/bin/sh" > "$root/etc/passwd"
mount -o remount,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


class Container:
    """The command of an image as the Containerfile states it, with what `docker run` would give it."""

    def __init__(self, target: str, venv: Path, directory: Path, variables: Mapping[str, str]) -> None:
        stage = dict([*instructions("base"), *instructions(target)])
        words = [word.replace("$PATH", "/usr/bin:/bin") for word in stage["ENV"].split()]
        words += [f"{name}={value}" for name, value in variables.items()]
        self._in_it = ["/usr/bin/env", "-i", f"--chdir={stage['WORKDIR']}", *words]
        self._health = json.loads(stage["HEALTHCHECK"].partition("CMD ")[2])
        self._user = stage["USER"].split(":")
        self._stop = getattr(signal, stage["STOPSIGNAL"])
        self.log = directory / "log"
        root, self.volume = directory / "root", directory / "volume"
        root.mkdir()
        self.volume.mkdir(mode=0o700)
        os.chown(self.volume, *map(int, self._user))
        command = ["unshare", "--mount", "--net", "sh", "-c", EMPTY_ROOT, "sh"]
        places = [root, venv, self.volume, sys.base_prefix, stage["USER"]]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*map(str, (*command, *places)), *self._in_it, *json.loads(stage["ENTRYPOINT"])],
                stdout=log,
                stderr=log,
            )

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker exec` does."""
        user, group = self._user
        enter = ["nsenter", "--target", str(self.process.pid), "--mount", "--net", "--root"]
        return subprocess.run(
            [*enter, "--setuid", user, "--setgid", group, *self._in_it, *command],
            capture_output=True,
            text=True,
            timeout=60,
        )

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.inside(*self._health).returncode == Exit.OK

    def stop(self) -> int:
        self.process.send_signal(self._stop)
        return self.process.wait(30)


@contextmanager
def container(target: str, venv: Path, directory: Path, **variables: str) -> Iterator[Container]:
    one = Container(target, venv, directory, variables)
    try:
        yield one
    finally:
        with suppress(subprocess.TimeoutExpired):
            one.stop()
        one.process.kill()
        one.process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a root and become another user")
@pytest.mark.parametrize("target", ["kernel", "node"])
def test_the_command_of_the_image_runs_in_an_empty_root(
    target: str, container_venv: Path, directory: Path
) -> None:
    network = {"LOGOS_KERNEL_CLUSTER_ID": "46", "LOGOS_KERNEL_SHARD": "0", "LOGOS_KERNEL_NAT": "none"}
    with container(target, container_venv, directory, **network) as one:
        wait_for(one.healthy, "the health check of the image")
        assert one.inside("touch", "/opt/logos/x").stderr.endswith("Read-only file system\n")
        assert one.stop() == 0, one.log.read_text()
        owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in one.volume.rglob("*")}
        assert owners == {(10001, 10001)}
