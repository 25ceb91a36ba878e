"""The compiled build: mypyc over the modules that every relayed message passes, from unchanged source.

    python deploy/compile.py            compile in place: extension modules beside the sources
    python deploy/compile.py --clean    remove them

As a hatch build hook it does the same for a wheel when `LOGOS_COMPILED=1` is in the environment; that wheel
is for one platform and Python. Otherwise the wheel is pure Python. Needs mypy, setuptools, a C compiler and
the whole tree: a source distribution makes pure wheels only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface as _Hook
except ImportError:  # as a script: a build of wheels has hatchling, a developer's environment need not
    _Hook: Any = object  # type: ignore[no-redef]

ROOT: Final = Path(__file__).resolve().parents[1]
SWITCH: Final = "LOGOS_COMPILED"
REQUIREMENTS: Final = ("mypy==2.4.1", "setuptools>=80,<81")
_RELAY: Final = (
    "framing rpc rpc_reader rpc_writer messages cache seen scores state mesh gossip promises backoff outbox"
    " router traffic validation intake link publisher service"
)
_P2P: Final = "varint stream output muxer yamux mplex scratch noise"
MODULES: Final = (
    "ipc_schema/message.py",
    *(f"kernel_proc/relay/{name}.py" for name in _RELAY.split()),
    *(f"kernel_proc/p2p/{name}.py" for name in _P2P.split()),
)
_PACKAGES: Final = ("kernel_proc", "ipc_schema")
_SETUP: Final = """
import sys
from mypyc.build import mypycify
from setuptools import setup
config, *modules = sys.argv[1:]
sys.argv[1:] = ["build_ext", "--inplace"]
setup(name="compiled", packages=[], py_modules=[], ext_modules=mypycify(["--config-file", config, *modules]))
"""
_CONFIG: Final = """
[mypy]
python_version = 3.11
explicit_package_bases = True
namespace_packages = True
ignore_missing_imports = True
follow_imports = silent
"""


def compile_into(target: Path) -> list[Path]:
    """Compile a copy of the sources and put the extension modules under `target`, at the places of their
    sources. Return their relative paths. Raises subprocess.CalledProcessError."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for package in _PACKAGES:
            shutil.copytree(
                ROOT / package, place / package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
            )
        (place / "mypy.ini").write_text(_CONFIG, encoding="utf-8")
        subprocess.run(
            [sys.executable, "-c", _SETUP, "mypy.ini", *MODULES],
            cwd=place,
            env=os.environ | {"MYPYPATH": directory},
            check=True,
        )
        found = sorted(path.relative_to(place) for path in place.rglob("*.so") if "build" not in path.parts)
        for path in found:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(place / path, target / path)
    return found


def clean() -> None:
    """Remove what was compiled in place."""
    found = (path for package in _PACKAGES for path in (ROOT / package).rglob("*.so"))
    for path in (*ROOT.glob("*__mypyc*.so"), *found):
        path.unlink()


class CustomBuildHook(_Hook):
    """Put the extension modules into the wheel."""

    def dependencies(self) -> list[str]:
        return list(REQUIREMENTS) if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _wanted() or self.target_name != "wheel" or version == "editable":
            return
        self._built = tempfile.mkdtemp()
        for path in compile_into(Path(self._built)):
            build_data["force_include"][str(Path(self._built) / path)] = path.as_posix()
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if built := getattr(self, "_built", None):
            shutil.rmtree(built)


def _wanted() -> bool:
    return os.environ.get(SWITCH) == "1"


def main() -> int:
    if sys.argv[1:] == ["--clean"]:
        clean()
        return 0
    clean()
    for path in compile_into(ROOT):
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
