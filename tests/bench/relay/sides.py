"""The sides of the relay bench: our node and the references, built when they are asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.harness import ROOT

_BENCH: Final = Path(__file__).parents[1]
_BUILT: Final = ROOT / "build" / "bench"
BUILD_SECONDS: Final = 1800


class Unavailable(Exception):
    """A reference cannot run here: its tool chain is missing, or it does not build."""


@dataclass(frozen=True, slots=True)
class Side:
    """How to start one side. `warm_up`: messages that it publishes before anything is measured."""

    key: str
    name: str
    command: tuple[str, ...]
    warm_up: int
    cwd: Path = ROOT


OURS: Final = Side("ours", "ours", (sys.executable, "-m", "tests.bench.relay.node"), warm_up=1_000)


def build_references(*, wanted: Callable[[str], bool], log: Callable[[str], object]) -> list[Side]:
    """Return the references that can run here, built; `log` gets a line for each one that is left out."""
    sides = []
    for key, build in {"go": _go, "rust": _rust, "js": _js}.items():
        if not wanted(key):
            continue
        try:
            sides.append(build())
        except Unavailable as error:
            log(f"relay: the reference {key} is left out: {error}")
    return sides


def sink() -> Side:
    """Return the program that plays many receivers at once. Raises Unavailable."""
    rust = _rust()
    return Side("sink", "sink", rust.command[:1], 0)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def _run(command: list[str], cwd: Path, **environment: str) -> None:
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
        raise Unavailable(f"{' '.join(command[:2])} failed:\n{done.stdout[-2000:]}")


def _go() -> Side:
    source, program = _BENCH / "go", _BUILT / "relay-go"
    _run([_tool("go"), "build", "-trimpath", "-o", str(program), "."], source)
    version = _pinned(source / "go.mod", r"/go-libp2p-pubsub v([\d.]+)")
    return Side("go", f"go-libp2p-pubsub {version}", (str(program),), warm_up=3_000)


def _rust() -> Side:
    source, target = _BENCH / "rust", _BUILT / "rust"
    _run([_tool("cargo"), "build", "--release", "--locked"], source, CARGO_TARGET_DIR=str(target))
    version = _pinned(source / "Cargo.lock", r'name = "libp2p-gossipsub"\nversion = "([\d.]+)"')
    program = str(target / "release" / "relay-bench-reference")
    return Side("rust", f"rust-libp2p gossipsub {version}", (program,), warm_up=2_000)


def _js() -> Side:
    source = _BENCH / "js"
    node = _tool("node")
    if not (source / "node_modules").is_dir():
        raise Unavailable("its packages are not installed (make node)")
    versions = json.loads((source / "package.json").read_text(encoding="utf-8"))["dependencies"]
    command = (node, "--import", "./polyfill.mjs", "relay_node.mjs", "--validate")
    name = f"js-libp2p gossipsub {versions['@libp2p/gossipsub']} on Node.js"
    # Its first thousands run at half speed, before the JIT.
    return Side("js", name, command, warm_up=10_000, cwd=source)


def _pinned(file: Path, pattern: str) -> str:
    found = re.search(pattern, file.read_text(encoding="utf-8"))
    if found is None:
        raise Unavailable(f"{file.name} does not pin it")
    return found[1]
