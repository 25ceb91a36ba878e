"""What benches that run real kernels ask of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.bench.harness import BenchError
from tests.support.kernel_process import Dealer


def metric(dealer: Dealer, name: str, **labels: str) -> int:
    """The value of a kernel's counter or gauge, without the prefix of its name; 0: nothing counted yet."""
    rows = dealer.ok("node.metrics")["metrics"]
    return int(sum(value for found, row, value in rows if found.endswith(f"_{name}") and row == labels))


def until(check: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Ask `check` until what it returns is true. Raises BenchError after `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)
