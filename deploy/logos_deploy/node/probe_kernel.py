"""A short-lived kernel in a temporary directory, with which a command looks at other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from ipc_schema.paths import kernel_endpoints
from logos_client.kernel import KernelClient
from logos_deploy.control import wait_ready
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.processes import without_own_variables
from logos_process.parent_watch import PARENT, ParentPipe

_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 8.0
_QUIET: Final = (
    "--tcp-port=0",
    "--listen-address=127.0.0.1",  # it dials, and is not dialled
    "--peer-persistence=false",
    "--shard=none",
    "--log-level=WARN",
)


@contextlib.asynccontextmanager
async def probe_kernel(options: Sequence[str]) -> AsyncIterator[KernelClient]:
    """Start a kernel with these options, and connect to it; it is gone afterwards, with its directory.

    Raises `CommandError` if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="logos-probe-") as name:
        directory = Path(name)
        endpoints = kernel_endpoints(directory / "run")
        async with _process(directory, options) as process:
            waiting = asyncio.create_task(wait_ready(endpoints.control, pid=process.pid))
            ended = asyncio.create_task(process.wait())
            try:
                await asyncio.wait(
                    {waiting, ended}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not waiting.done():
                    raise CommandError(Exit.FAILED, f"cannot start a kernel: {_last_words(directory)}")
            finally:
                waiting.cancel()
                ended.cancel()
            async with KernelClient.connect(endpoints) as client:
                yield client


@contextlib.asynccontextmanager
async def _process(directory: Path, options: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = ParentPipe()
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "kernel_proc", f"--data-dir={directory}", *_QUIET, *options),
            stdin=pipe.reading,
            stdout=log,
            stderr=log,
            env={**without_own_variables(os.environ), PARENT: "0"},
            # Ctrl-C is for us alone: we end it ourselves
            start_new_session=True,
        )
    try:
        yield process
    finally:
        pipe.cut()  # which ends it, as our own death would
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _last_words(directory: Path) -> str:
    lines = (directory / "log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
