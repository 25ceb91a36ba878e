"""The clients of this repository: language → the command of its adapter, built where it has to be.

A language whose tools are not installed is left out (`Unavailable`), but never in continuous integration
(CI=true).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

HERE: Final = Path(__file__).parent
CLIENT: Final = HERE.parent
BUILT: Final = CLIENT.parent / "build" / "clients"
BUILD_SECONDS: Final = 900.0


class Unavailable(Exception):
    """A language's tools are not installed; the text says which."""


def need_tools(*names: str) -> None:
    """Require programs. Raises `Unavailable` if one is missing; in continuous integration that is a
    failure."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        _unavailable(missing)


def _unavailable(missing: list[str]) -> NoReturn:
    text = f"not installed: {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        raise RuntimeError(text)
    raise Unavailable(text)


def build(command: list[str], cwd: Path, **environment: str) -> None:
    """Build something, one process at a time: concurrent tests may need the same."""
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{Path(command[0]).name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{done.stdout[-4000:]}")


def go_program(package: str) -> list[str]:
    """Build a program of `client/go`. Return the command."""
    need_tools("go", "cc", "pkg-config")
    program = BUILT / "go" / Path(package).name
    build(["go", "build", "-trimpath", "-o", f"{program.parent}/", f"./{package}"], CLIENT / "go")
    return [str(program)]


def _need_headers(*names: str) -> None:
    """Require libraries for C++, as `need_tools`."""
    missing = [name for name in names if not _has_header(name)]
    if missing:
        _unavailable(missing)


def _has_header(name: str) -> bool:
    source = f"#if !__has_include(<{name}>)\n#error\n#endif\n"
    command = ["c++", "-E", "-x", "c++", "-"]
    return subprocess.run(command, input=source.encode(), capture_output=True, check=False).returncode == 0


def cpp_program(target: str) -> list[str]:
    """Build a program of `client/cpp`. Return the command."""
    need_tools("cmake", "ninja", "c++", "pkg-config")
    _need_headers("zmq.hpp", "sodium.h", "msgpack.hpp", "nlohmann/json.hpp", "gtest/gtest.h")
    built = BUILT / "cpp"
    if not (built / "build.ninja").exists():
        configure = ["cmake", "-S", str(CLIENT / "cpp"), "-B", str(built), "-G", "Ninja"]
        build([*configure, "-DCMAKE_BUILD_TYPE=Release"], CLIENT)
    # One compiler at a time: it is built beside other tests.
    build(["ninja", "-C", str(built), "-j", "1", Path(target).name], CLIENT)
    return [str(built / target)]


def rust_program(example: str) -> list[str]:
    """Build a program of `client/rust`. Return the command."""
    need_tools("cargo", "c++")
    target = BUILT / "rust"
    # One profile for everything: libzmq, which takes most of the time, is compiled once.
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--examples"]
    build(command, CLIENT / "rust", CARGO_TARGET_DIR=str(target))
    return [str(target / "release" / "examples" / example)]


def node_program(path: Path) -> list[str]:
    """Return the command of a program that uses `client/js`."""
    need_tools("node")
    if not (CLIENT / "js" / "node_modules").is_dir():
        raise Unavailable("the packages of client/js are not installed (make node)")
    return ["node", str(path)]


def _python() -> list[str]:
    return [sys.executable, str(HERE / "adapters" / "python_client.py")]


OURS: Final[dict[str, Callable[[], list[str]]]] = {
    "python": _python,
    "node": lambda: node_program(HERE / "adapters" / "node_client.mjs"),
    "go": lambda: go_program("internal/adapter"),
    "cpp": lambda: cpp_program("tools/conformance_adapter"),
    "rust": lambda: rust_program("conformance"),
}

if __name__ == "__main__":  # build them all: tests then find them built
    for name, command in OURS.items():
        try:
            command()
        except Unavailable as why:
            sys.stderr.write(f"the client {name} is left out: {why}\n")
