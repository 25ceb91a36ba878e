"""The bench `clients`: what a client costs over a bare ZeroMQ loop of its own language, in the same run.

Each language brings a program, which the driver starts once for each round:

    PROGRAM ROLE SIDE ENDPOINT COUNT SIZE

It connects to ENDPOINT (`ipc://…`; `server.py` is there), does COUNT things with payloads of SIZE bytes,
prints one line of JSON and ends with code 0:

    {"event": "done", "seconds": 1.25, "cpu_us": 900000, "p50_us": 80.1, "p99_us": 210.0}

`seconds`: what was measured took so long. `cpu_us`: CPU of the process meanwhile, all threads (getrusage).
`p50_us`, `p99_us`: for `latency` alone. An error: any text on standard error, and another code.

SIDE `client`: hello as an ephemeral app with the client's default credit, and then by ROLE

- `receive`: subscribe to the one topic `/bench/1/COUNT/SIZE`; COUNT `message_received` follow the answer.
  Take them as an app would, and check that none is missing. From the first event taken to the last.
- `send`: COUNT sends on any topic, 64 of them under way at a time. From the first until all are accepted.
- `latency`: COUNT sends, each after the answer to the one before.

SIDE `bare`: a DEALER without any of the client's code

- `receive`: send the frames `"flood"`, COUNT, SIZE (decimal text), and receive COUNT messages of 3 frames.
  From the first to the last.
- `send`: send COUNT messages of 4 frames with 64 under way, and take the replies (3 frames). The frames are
  `"LD1"`, header, body and payload of a `send` request; they may be the same each time.
- `latency`: the same with one under way.

`python_program.py` is the one to read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from conformance.ours import CLIENT, Unavailable, cpp_program, go_program, node_program, rust_program
from tests.bench.harness import ROOT, BenchError, Case, Child, Options, Round, alternate, kib, result
from tests.support.kernel_process import short_directory

BENCH: Final = "clients"
COUNTS: Final = {"receive": 100_000, "send": 30_000, "latency": 5_000}
SIZE: Final = 1024
TARGET: Final = 0.7
RUN_SECONDS: Final = 120.0


def _python() -> list[str]:
    return [sys.executable, "-m", "tests.bench.clients.python_program"]


#: Language → what builds its program and returns the command, or raises `Unavailable`.
PROGRAMS: Final[dict[str, Callable[[], list[str]]]] = {
    "python": _python,
    "node": lambda: node_program(CLIENT / "js" / "tools" / "bench_program.mjs"),
    "go": lambda: go_program("internal/bench"),
    "cpp": lambda: cpp_program("tools/bench_program"),
    "rust": lambda: rust_program("bench"),
}


def _round(command: list[str], role: str, side: str, endpoint: str, count: int) -> Round:
    done = subprocess.run(
        [*command, role, side, endpoint, str(count), str(SIZE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchError(
            f"{' '.join(command)} {role} {side} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    line = json.loads(done.stdout)
    cpu = {"program": line["cpu_us"] / count}
    if role == "latency":
        return Round(line["p50_us"], cpu, {"p99_us": line["p99_us"]})
    return Round(count / line["seconds"], cpu)


def clients(options: Options) -> Iterator[dict[str, Any]]:
    """Rates and latency by language, for those whose tools are there."""
    with ExitStack() as stack:
        endpoint = f"ipc://{stack.enter_context(short_directory())}/apps"
        server = Child.python("server", "tests.bench.clients.server", endpoint)
        stack.enter_context(server).event("ready")
        for language, program in PROGRAMS.items():
            wanted = [role for role in COUNTS if options.wants(f"{language}: {role}")]
            if not wanted:
                continue
            try:
                command = program()
            except Unavailable as why:
                sys.stderr.write(f"bench clients: {language} is left out: {why}\n")
                continue
            for role in wanted:
                count = options.count(COUNTS[role])
                sides = [partial(_round, command, role, side, endpoint, count) for side in ("client", "bare")]
                yield _result(language, role, count, *alternate(options.runs, *sides))


def _result(language: str, role: str, count: int, ours: list[Round], bare: list[Round]) -> dict[str, Any]:
    reference = f"bare ZeroMQ loop in {language}"
    more = {"messages": count, "size": kib(SIZE)}
    if role == "latency":
        case = Case(
            BENCH,
            f"{language}: {role}",
            "µs",
            reference,
            f"ratio ≤ {1 / TARGET:.2f}",
            lambda line: line["ratio"] <= 1 / TARGET,
            more,
        )
    else:
        case = Case(
            BENCH,
            f"{language}: {role}",
            "msg/s",
            reference,
            f"ratio ≥ {TARGET}",
            lambda line: line["ratio"] >= TARGET,
            more,
        )
    return result(case, ours, bare)
