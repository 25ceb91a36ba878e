"""The disk under a bench: refused when it is none, and how long it takes to have something for good."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from tests.bench.harness import BenchError, percentile

DISK: Final = Path("/var/tmp")
"""Where benches make their directories: /tmp is often in memory."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs"})


def file_system(path: Path) -> str:
    """The type of the file system that holds a path (Linux)."""
    real = str(path.resolve())
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, found, *_ = line.split(" ")
        below = real == mount or mount == "/" or real.startswith(mount + "/")
        if below and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def refuse_memory(path: Path) -> None:
    """Raises BenchError where nothing is ever on a disk."""
    kind = file_system(path)
    if kind in _IN_MEMORY:
        raise BenchError(f"{path} is {kind}, in memory: what is durable cannot be measured there")


def fsync_ms(directory: Path, rounds: int = 200) -> list[float]:
    """Milliseconds of so many appends of 4 KiB, each synced."""
    times: list[float] = []
    path = directory / "fsync-probe"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    block = os.urandom(4096)
    try:
        for _ in range(rounds):
            started = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            times.append((time.perf_counter() - started) * 1000)
    finally:
        os.close(file)
        path.unlink()
    return times


def fsync_p50(directory: Path) -> float:
    """The median of `fsync_ms`."""
    return percentile(fsync_ms(directory), 0.5)
