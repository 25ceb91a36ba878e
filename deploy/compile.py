"""The compiled build: mypyc over the modules that every message passes, from unchanged source.

    python deploy/compile.py            compile in place: extension modules beside the sources
    python deploy/compile.py --clean    remove them

As a hatch build hook it does the same for a wheel when `LOGOS_COMPILED=1` is in the environment; that wheel
is for one platform and Python. Otherwise the wheel is pure Python. Needs mypy, setuptools, a C compiler and
the whole tree: a source distribution makes pure wheels only. The client's hook (`client/build_contract.py`)
calls `compile_into` for its own wheel.

Each group is one shared library: within it calls and attributes are direct, and a class can be a base only of
classes of its own group. What stays out, and why:

- declared bodies, and other classes whose annotations are read at run time: mypyc keeps no `Annotated`;
- errors, and the public classes of the client: others may subclass them, and read docstrings and signatures;
- of the client, what checks arguments in words of its own: compiled, a wrong type has mypyc's words;
- async generators, which mypyc lacks; what joins a named tuple with another base;
- what tests replace (`KernelLink`, `Database`, `MessageSender`, `Turnstile`; constants of
  `bodies`): a compiled class takes only its own;
- what is not in a message's path: it makes the library larger, and each start slower.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as _Hook
except ImportError:  # as a script: a build of wheels has hatchling, a developer's environment need not
    _Hook: Any = object  # type: ignore[no-redef]

ROOT: Final = Path(__file__).resolve().parents[1]
SWITCH: Final = "LOGOS_COMPILED"
_TYPED: Final = ("coincurve", "cryptography", "msgpack", "pyzmq", "trio")
"""What the modules import, besides py-libp2p, which needs a compiler and GMP. What mypy cannot find is `Any`
to it, and mypyc makes of a class with such a base one that crashes: `_CONFIG` refuses that."""


class Group(NamedTuple):
    """Modules that are compiled together, by package."""

    name: str
    rooms: dict[str, str]

    @property
    def modules(self) -> list[str]:
        """Return the paths of the sources below the directory that has all packages."""
        return [f"{package}/{name}.py" for package, names in self.rooms.items() for name in names.split()]


CLIENT: Final = Group(
    "logos_client",
    {
        "ipc_schema": "fields frames message server steady",
        "ipc_schema/mapi": "event_codec",
        "ipc_schema/streams": "ring gaps coverage",
        "logos_client": "_connection _consumer _in_flight _joined_sends _stream",
        "logos_sockets": "backlog door drain memory outgoing window",
    },
)
GATEWAY: Final = Group(
    "logos_gateway",
    {
        "logos_gateway": "dispatch http_access json_values origins problems",
        "logos_gateway/apps": "encoding sending window",
        "logos_gateway/operator": "request_figures",
    },
)
KERNEL: Final = Group(
    "logos_kernel",
    {
        "kernel_proc": "publishing",
        "kernel_proc/ipc": "events loop shell",
        "kernel_proc/ipc/methods": "relay",
        "kernel_proc/p2p": "varint stream output muxer yamux mplex scratch noise",
        "kernel_proc/relay": (
            "framing rpc rpc_reader rpc_writer messages cache seen scores state mesh gossip promises backoff"
            " outbox router traffic validation intake link publisher service"
        ),
    },
)
MAPI: Final = Group(
    "logos_mapi",
    {
        "mapi_proc": "write_batch",
        "mapi_proc/apps": "registry",
        "mapi_proc/channels": "feed",
        "mapi_proc/database": "batch journal log_sync statements writer",
        "mapi_proc/ipc": "router sends",
        "mapi_proc/kernel_link": "events tracker",
        "mapi_proc/receive": "receiver dedup delivered",
        "mapi_proc/send": (
            "acceptance confirm fairness ledger loop processors rate record service task window_clock"
        ),
        "mapi_proc/streams": "durable ephemeral extents fanout limits stream",
        "mapi_proc/subscriptions": "table",
    },
)
NODE: Final = (GATEWAY, KERNEL, MAPI)
# At low rates a message finds the caches cold, so what counts is how much code it touches: level 2 inlines
# less, calls into Python do without a jump table, and error paths, which mypyc marks as unlikely, go apart.
# Compilers other than GCC ignore the last.
_FLAGS: Final = "-fno-plt --param=builtin-expect-probability=100" if sys.platform == "linux" else ""
_SETUP: Final = """
import sys
from mypyc.build import mypycify
from setuptools import setup
flags, name, *paths = sys.argv[1:]
sys.argv[1:] = ["build_ext", "--inplace"]
extensions = mypycify(["--config-file", "mypy.ini", *paths], group_name=name, opt_level="2")
for extension in extensions:
    extension.extra_compile_args = [*extension.extra_compile_args, *flags.split()]
setup(name="compiled", packages=[], py_modules=[], ext_modules=extensions)
"""
_CONFIG: Final = """
[mypy]
python_version = 3.11
explicit_package_bases = True
namespace_packages = True
ignore_missing_imports = True
follow_imports = silent
disallow_subclassing_any = True
"""


def compile_into(target: Path, groups: Sequence[Group]) -> list[Path]:
    """Compile copies of the sources, the groups at the same time, and put the extension modules under
    `target`, as a wheel has them. Return their relative paths. Raises subprocess.CalledProcessError."""
    with ThreadPoolExecutor() as pool:
        return sorted(path for found in pool.map(partial(_compile, target), groups) for path in found)


def _compile(target: Path, group: Group) -> list[Path]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for package, source in _sources().items():
            shutil.copytree(source, place / package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (place / "mypy.ini").write_text(_CONFIG, encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", _SETUP, _FLAGS, group.name, *group.modules],
            cwd=place,
            env=os.environ | {"MYPYPATH": directory},
            check=True,
        )
        found = [path.relative_to(place) for path in place.rglob("*.so") if "build" not in path.parts]
        for path in found:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place / path, target / path)
    return found


def _sources() -> dict[str, Path]:
    """Return the directories of all packages of both distributions, by name."""
    places = (ROOT, ROOT / "client", ROOT / "deploy")
    return {marker.parent.name: marker.parent for place in places for marker in place.glob("*/py.typed")}


def compile_in_place() -> list[Path]:
    """Compile, and put each extension module beside its source. Return their paths."""
    sources = _sources()
    placed = []
    with tempfile.TemporaryDirectory() as directory:
        for path in compile_into(Path(directory), (CLIENT, *NODE)):
            package = sources.get(path.parts[0])
            target = ROOT / path if package is None else package.parent / path
            shutil.copy2(Path(directory) / path, target)
            placed.append(target)
    return placed


def clean() -> None:
    """Remove what was compiled in place."""
    packages = (path for source in _sources().values() for path in source.rglob("*.so"))
    for path in (*ROOT.glob("*__mypyc*.so"), *packages):
        path.unlink()


def build_into(wheel: dict[str, Any], groups: Sequence[Group]) -> str:
    """Add the extension modules to hatchling's data of a wheel. Return the directory that holds them until it
    is built."""
    built = tempfile.mkdtemp()
    for path in compile_into(Path(built), groups):
        wheel["force_include"][str(Path(built) / path)] = path.as_posix()
    wheel["pure_python"] = False
    wheel["infer_tag"] = True
    return built


def requirements() -> list[str]:
    """Return what a build needs, in the versions that the node is locked to."""
    lock = (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock, re.MULTILINE))
    return ["mypy==2.4.1", "setuptools>=80,<81", *(f"{name}=={locked[name]}" for name in _TYPED)]


def wanted() -> bool:
    """Return whether the environment asks for a compiled wheel."""
    return os.environ.get(SWITCH) == "1"


class CustomBuildHook(_Hook):
    """Put the extension modules into the wheel."""

    def dependencies(self) -> list[str]:
        return requirements() if wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if wanted() and self.target_name == "wheel" and version != "editable":
            self._built = build_into(build_data, NODE)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if built := getattr(self, "_built", None):
            shutil.rmtree(built)


def main() -> int:
    if sys.argv[1:] == ["--clean"]:
        clean()
        return 0
    clean()
    for path in compile_in_place():
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
