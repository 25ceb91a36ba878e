"""Run a kernel as a child process, for a Messaging API built from a preset.

It is started by its command, not imported, and exits when we do, however we end
(`logos_process.parent_watch`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

from ipc_schema.config.kernel import KERNEL_SCHEMA
from ipc_schema.config.sources import to_environment
from logos_process.exits import ExitCode
from logos_process.parent_watch import PARENT, ParentPipe

_STOP_S: Final = 6.0


class KernelChildError(Exception):
    """The kernel process exited with code `code` without being asked to."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the kernel process ended with code {code}")
        self.code = code

    @property
    def final(self) -> bool:
        """True if a restart cannot help: the kernel refuses its configuration (its log says why)."""
        return self.code == ExitCode.CONFIG


class KernelChild:
    """One kernel process.

    `options` are raw values as `derive_kernel` gives them. They travel in the environment, because other
    users can read a process's arguments.
    """

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = dict(options)
        self._process: asyncio.subprocess.Process | None = None
        self._pipe: ParentPipe | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process, or start it again. Its hello signals readiness."""
        self._cut_pipe()
        self._pipe = ParentPipe()
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LOGOS_KERNEL_", "LOGOS_MAPI_"))
        }
        environment |= to_environment(KERNEL_SCHEMA, self._options)
        environment[PARENT] = "0"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kernel_proc", env=environment, stdin=self._pipe.reading
        )

    async def ended(self) -> None:
        """Wait until it exits without being asked to; raises KernelChildError then."""
        assert self._process is not None
        raise KernelChildError(await self._process.wait())

    def _cut_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.cut()
            self._pipe = None

    async def stop(self) -> None:
        """Send TERM, then KILL. No-op if it does not run."""
        process, self._process = self._process, None
        try:
            if process is None or process.returncode is not None:
                return
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        finally:
            self._cut_pipe()  # last: a kernel that is ending already would take TERM for impatience
