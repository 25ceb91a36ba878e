"""The bench `enr`: what it costs to read and verify a node record, and to make one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from kernel_proc.discovery.enr import Enr
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.discovery.enr_local import LocalEnr
from tests.bench.harness import BenchError, Case, Child, Options, Round, alternate, result

_JS: Final = Path(__file__).parents[1] / "interop" / "discv5"

BOOT_NODE: Final = (
    "enr:-QESuED0qW1BCmF-oH_ARGPr97Nv767bl_43uoy70vrbah3EaCAdK3Q0iRQ6wkSTTpdrg_dU_NC2ydO8leSlRpBX4pxiAYJpZIJ2NIJp"
    "cIRA4VDAim11bHRpYWRkcnO4XAArNiZub2RlLTAxLmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQZ2XwAtNiZub2RlLTAxLmRvLWFt"
    "czMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQYfQN4DgnJzkwABCAAAAAEAAgADAAQABQAGAAeJc2VjcDI1NmsxoQOTd-h5owwj-cx7xrmbvQKU"
    "8CV3Fomfdvcv1MBc-67T5oN0Y3CCdl-DdWRwgiMohXdha3UyDw"
)
"""A boot node of The Waku Network."""


def reference() -> Child:
    """The process of the reference."""
    node = shutil.which("node")
    if node is None or not (_JS / "node_modules").is_dir():
        raise BenchError("the reference needs Node.js and `npm ci` in tests/interop/discv5")
    child = Child("chainsafe", [node, "--import", "./polyfill.mjs", "bench.mjs"], cwd=_JS)
    child.event("ready")
    return child


def compare(
    bench: str, package: str, name: str, child: Child, command: str, ours: Callable[[int], float],
    count: int, options: Options, unit: str = "µs",
) -> dict[str, Any]:  # fmt: skip
    """A case of µs for one piece of work: `ours(count)` against the reference's `command`."""
    versions = json.loads((_JS / "package.json").read_text(encoding="utf-8"))["dependencies"]

    def theirs(number: int) -> float:
        return float(child.ask("ran", cmd=command, count=number)["us"])

    pieces = options.count(count)
    for side in (ours, theirs):
        side(pieces)  # caches and the JIT
    mine, reference_rounds = alternate(
        options.runs, lambda: Round(ours(pieces), {}), lambda: Round(theirs(pieces), {})
    )
    name_of_reference = f"{package} {versions[package]} on Node.js"
    return result(Case(bench, name, unit, name_of_reference), mine, reference_rounds)


def timed(work: Callable[[], object]) -> Callable[[int], float]:
    """µs of one call of `work`, over so many."""

    def run(count: int) -> float:
        start = time.perf_counter_ns()
        for _ in range(count):
            work()
        return (time.perf_counter_ns() - start) / 1000 / count

    return run


def enr(options: Options) -> Iterator[dict[str, Any]]:
    """µs for each record."""
    local = LocalEnr(Identity(bytes([1]) * 32), now_ms=1)
    local.set_addresses(["/ip4/127.0.0.1/tcp/60000"])
    ports = iter(range(1, 1 << 62))

    def sign() -> None:
        local.set_udp(udp4=next(ports) % 60000 + 1, udp6=None)
        _ = local.record.text

    cases: dict[str, tuple[str, Callable[[], object]]] = {
        "decode and verify": ("verify", lambda: Enr.from_text(BOOT_NODE)),
        "change, sign and encode": ("sign", sign),
    }
    with reference() as child:
        for name, (command, work) in cases.items():
            if options.wants(name):
                yield compare("enr", "@chainsafe/enr", name, child, command, timed(work), 2000, options)
