"""The faults of a host that only a preloaded library can make (shim.c): a clock that is set, a full disk."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("shim.c")
_SIZE: Final = 16


def build(directory: Path) -> Path | None:
    """Compile the library; None where there is no C compiler: those faults are left out."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        return None
    target = directory / "shim.so"
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", target, _SOURCE, "-ldl"], capture_output=True, check=False
    )
    return target if made.returncode == 0 else None


class HostFaults:
    """One host's: what its processes see from their next call on."""

    def __init__(self, path: Path, library: Path) -> None:
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_FAULTS": str(path)}

    @property
    def clock_ns(self) -> int:
        """How far the host's wall clock is ahead."""
        (offset,) = struct.unpack_from("=q", self._memory, 0)
        return int(offset)

    def set_clock(self, ahead_ns: int) -> None:
        """Set the wall clock to so much more than the right time."""
        struct.pack_into("=q", self._memory, 0, ahead_ns)

    def fill_disk(self, *, full: bool) -> None:
        """Whether writing to files fails for want of room."""
        struct.pack_into("=q", self._memory, 8, full)
