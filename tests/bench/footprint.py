"""The bench `footprint`: what each process costs while nothing happens, and how long it takes to be ready.

The reference is bare Python: an interpreter that has started and waits.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.harness import Case, Child, CpuMeter, Options, Round, result
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

BENCH: Final = "footprint"
REFERENCE: Final = "bare Python"
IDLE_SECONDS: Final = 5.0
_PYTHON: Final = 'import sys; print(\'{"event": "ready"}\', flush=True); sys.stdin.read()'
_CLIENT: Final = """
import asyncio, sys
from logos_client import MessagingClient
async def main():
    async with MessagingClient.connect(sys.argv[1], timeout=30) as client:
        await client.subscribe("/idle/1/idle/proto")
        print('{"event": "ready"}', flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@dataclass
class _Seen:
    """Rounds of one process: ms to ready, MB resident, % of a CPU while idle."""

    start: list[Round] = field(default_factory=list)
    memory: list[Round] = field(default_factory=list)
    idle: list[Round] = field(default_factory=list)


def footprint(options: Options) -> Iterator[dict[str, Any]]:
    """Start, memory and idle CPU of kernel, Messaging API and client."""
    seen = {name: _Seen() for name in ("python", "kernel", "mapi", "client")}
    for _ in range(options.runs):
        _run(seen, max(1.0, IDLE_SECONDS * options.scale))
    python = seen["python"]
    targets: dict[str, tuple[str, Callable[[dict[str, Any]], bool]]] = {
        "kernel": ("below 100 MB", lambda line: line["ours"] < 100),
        "mapi": ("below 45 MB", lambda line: line["ours"] < 45),
        "client": ("below 20 MB above bare Python", lambda line: line["ours"] - line["reference"] < 20),
    }
    for name, (target, reached) in targets.items():
        each = seen[name]
        for case, ours, reference in (
            (Case(BENCH, f"{name} start to ready", "ms", REFERENCE), each.start, python.start),
            (Case(BENCH, f"{name} memory", "MB", REFERENCE, target, reached), each.memory, python.memory),
            (
                Case(BENCH, f"{name} idle CPU", "%", REFERENCE, "below 2 %", lambda line: line["ours"] < 2),
                each.idle,
                python.idle,
            ),
        ):
            if options.wants(case.name):
                yield result(case, ours, reference)


def _run(seen: dict[str, _Seen], idle: float) -> None:
    with ExitStack() as stack:
        place = stack.enter_context(short_directory())
        pids: dict[str, int] = {}

        def started(name: str, begun: float, pid: int) -> None:
            seen[name].start.append(Round((time.monotonic() - begun) * 1000, {}))
            pids[name] = pid

        begun = time.monotonic()
        python = stack.enter_context(Child("python", [sys.executable, "-c", _PYTHON]))
        python.event("ready")
        started("python", begun, python.pid)
        begun = time.monotonic()
        kernel = stack.enter_context(KernelProcess(place / "k"))
        assert kernel.process is not None
        started("kernel", begun, kernel.process.pid)
        begun = time.monotonic()
        mapi = stack.enter_context(MapiProcess(place / "m", kernel_dir=kernel.directory))
        asyncio.run(mapi.ready())
        started("mapi", begun, mapi.pid)
        begun = time.monotonic()
        client = stack.enter_context(Child("client", [sys.executable, "-c", _CLIENT, str(mapi.run_dir)]))
        client.event("ready")
        started("client", begun, client.pid)
        time.sleep(1.0)  # what follows a start is not yet idle
        meter = CpuMeter(pids)
        time.sleep(idle)
        # The meter tells µs by the "message": with as many of those as ms passed by, 10 is one per cent.
        for name, used in meter.per_message(int(idle * 1000)).items():
            seen[name].idle.append(Round(used / 10, {}))
        for name, pid in pids.items():
            seen[name].memory.append(Round(_resident(pid), {}))


def _resident(pid: int) -> float:
    """MB (10⁶ bytes) resident."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no VmRSS")
