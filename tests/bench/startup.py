"""The bench `startup`: the CPU that kernel and Messaging API use until they are ready, and for their imports.

The reference is bare Python: an interpreter that has started and waits. Bytecode is kept, as an installed
node has it: without it, compiling is most of a start.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

from tests.bench.harness import ROOT, Case, Child, CpuMeter, Options, Round, result
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

BENCH: Final = "startup"
REFERENCE: Final = "bare Python"
CPU_BOUND_MS: Final = 600
IMPORT_BOUNDS_MS: Final = {"kernel_proc.node": 450, "mapi_proc.service": 250}
_PYTHON: Final = 'import sys; print(\'{"event": "ready"}\', flush=True); sys.stdin.read()'


def startup(options: Options) -> Iterator[dict[str, Any]]:
    """CPU to ready of kernel and Messaging API; CPU and number of their imports."""
    with short_directory() as cache:
        before = {name: os.environ.get(name) for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")}
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache)}
        try:
            yield from _cases(options)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _cases(options: Options) -> Iterator[dict[str, Any]]:
    _run()  # fills the cache of bytecode
    runs = [_run() for _ in range(options.runs)]
    for name in ("kernel", "mapi"):
        case = Case(
            BENCH,
            f"{name} CPU to ready",
            "ms",
            REFERENCE,
            f"at most {CPU_BOUND_MS} ms",
            _at_most(CPU_BOUND_MS),
        )
        if options.wants(case.name):
            yield result(case, [run[name] for run in runs], [run["python"] for run in runs])
    for module, bound in IMPORT_BOUNDS_MS.items():
        case = Case(
            BENCH,
            f"import {module}",
            "ms",
            REFERENCE,
            f"at most {bound} ms",
            _at_most(bound),
        )
        if options.wants(case.name):
            rounds = [imports(module) for _ in range(options.runs)]
            case.more = {"slowest": rounds[-1][1]}
            yield result(
                case, [each for each, _ in rounds], [imports("site")[0] for _ in range(options.runs)]
            )


def _at_most(bound: int) -> Callable[[dict[str, Any]], bool]:
    def reached(line: dict[str, Any]) -> bool:
        return bool(line["ours"] <= bound)

    return reached


def _run() -> dict[str, Round]:
    """Start each process once; the CPU of all its threads until it is ready."""
    with ExitStack() as stack:
        place = stack.enter_context(short_directory())
        python = stack.enter_context(Child("python", [sys.executable, "-c", _PYTHON]))
        python.event("ready")
        kernel = stack.enter_context(KernelProcess(place / "k"))
        assert kernel.process is not None
        used = {"python": _cpu(python.pid), "kernel": _cpu(kernel.process.pid)}
        mapi = stack.enter_context(MapiProcess(place / "m", kernel_dir=kernel.directory))
        asyncio.run(mapi.ready())
        return used | {"mapi": _cpu(mapi.pid)}


def _cpu(pid: int) -> Round:
    """ms of CPU that a process has used since its start."""
    return Round(CpuMeter.used({"": pid})[""] / 1e6, {})


def imports(module: str) -> tuple[Round, dict[str, float]]:
    """ms of CPU of a process that imports a module, and the five packages that take the most, in ms.

    The packages are as `-X importtime` reports them: by the clock, hence for a quiet machine only.
    """
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import time, {module}; print(time.process_time())"],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    own: dict[str, float] = defaultdict(float)
    modules = 0
    for line in done.stderr.splitlines():
        label, _, rest = line.partition(":")
        fields = rest.split("|")
        if label == "import time" and fields[0].strip().isdigit():
            modules += 1
            own[fields[2].strip().partition(".")[0]] += int(fields[0]) / 1000
    slowest = sorted(own.items(), key=lambda item: -item[1])[:5]
    return (
        Round(float(done.stdout) * 1000, {}, {"modules": modules}),
        {name: round(spent, 1) for name, spent in slowest},
    )
