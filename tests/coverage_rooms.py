"""Branch coverage of the unit tests by room: `make coverage`.

Exits with 1 if a pure core is below 95 %. The HTML report is in `build/coverage`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
BUILD: Final = ROOT / "build"
ROOMS: Final = (
    "ipc_schema",
    "kernel_proc/p2p",
    "kernel_proc/relay",
    "kernel_proc/protocols",
    "kernel_proc/archive",
    "kernel_proc/discovery",
    "kernel_proc/peers",
    "kernel_proc/peering",
    "kernel_proc/ipc",
    "kernel_proc",
    "mapi_proc/send",
    "mapi_proc/receive",
    "mapi_proc/streams",
    "mapi_proc/subscriptions",
    "mapi_proc/channels",
    "mapi_proc/kernel_link",
    "mapi_proc/database",
    "mapi_proc/ipc",
    "mapi_proc",
    "client/logos_client",
    "client",
    "deploy/logos_process",
    "deploy/logos_deploy",
)
"""The first that a file is in counts it."""
CORES: Final = ("ipc_schema", "mapi_proc/streams", "mapi_proc/channels")
"""Rooms without I/O, and the share of branches and lines that their tests must reach."""
ENOUGH: Final = 95.0


def room_of(path: str) -> str:
    """The room that a source file belongs to, or its top-level directory."""
    return next((room for room in ROOMS if path.startswith(f"{room}/")), path.partition("/")[0])


def by_room(report: dict[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    """Of coverage's JSON report: for each room, lines, lines run, branches, branches taken."""
    rooms: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for path, file in report["files"].items():
        found = file["summary"]
        values = ("num_statements", "covered_lines", "num_branches", "covered_branches")
        for index, key in enumerate(values):
            rooms[room_of(path)][index] += found[key]
    return {room: (one[0], one[1], one[2], one[3]) for room, one in rooms.items()}


def share(figures: tuple[int, int, int, int]) -> float:
    """Per cent of lines and branches together, as coverage counts them."""
    lines, run, branches, taken = figures
    return 100.0 * (run + taken) / max(1, lines + branches)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default="2", help="tests at once")
    parser.add_argument("tests", nargs="*", default=["tests/unit"])
    options = parser.parse_args(arguments)
    environment = {**os.environ, "COVERAGE_FILE": str(BUILD / "coverage.data")}
    BUILD.mkdir(exist_ok=True)
    python = (sys.executable, "-m")

    def run(*command: str) -> int:
        return subprocess.run([*python, *command], cwd=ROOT, env=environment, check=False).returncode

    run("coverage", "erase")
    tests = ("pytest", "-q", "-n", options.jobs, "--dist", "worksteal", *options.tests)
    failed = run("coverage", "run", "-m", *tests)
    run("coverage", "combine", "--quiet")
    run("coverage", "html", "--quiet", "-d", str(BUILD / "coverage"))
    run("coverage", "json", "--quiet", "-o", str(BUILD / "coverage.json"))
    rooms = by_room(json.loads((BUILD / "coverage.json").read_text(encoding="utf-8")))
    low = []
    print(f"{'room':28}{'lines':>8}{'branches':>10}{'covered':>10}")
    for room, figures in sorted(rooms.items(), key=lambda item: ROOMS.index(item[0])):
        print(f"{room:28}{figures[0]:8}{figures[2]:10}{share(figures):9.1f} %")
        if room in CORES and share(figures) < ENOUGH:
            low.append(room)
    if low:
        print(f"below {ENOUGH:g} %: {', '.join(low)}", file=sys.stderr)
    return 1 if failed or low else 0


if __name__ == "__main__":
    sys.exit(main())
