"""`logos-mapi` and `python -m mapi_proc`: the Messaging API of a Waku node."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig, load_mapi_config
from logos_process.exits import ExitCode
from logos_process.main import Process, run_process
from logos_process.stopping import StopLimit, stop_signals

__all__ = ["main"]

STOP_SECONDS: Final = 5.0


def _run(config: MapiConfig, limit: StopLimit) -> int:
    import uvloop

    return uvloop.run(_serve(config, limit))


async def _serve(config: MapiConfig, limit: StopLimit) -> int:
    from mapi_proc.api import MessagingApi

    api = MessagingApi(config=config)
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, api.end)
    await api.start(timeout=None)
    try:
        error = await api.ended()
    finally:
        limit.start()
        await api.stop()
    return ExitCode.OK if error is None else ExitCode.FAILED


MAPI: Final = Process(
    program="logos-mapi",
    description="The Messaging API of a Waku node.",
    package="mapi_proc",
    schema=MAPI_SCHEMA,
    load=load_mapi_config,
    run=_run,
    stop_seconds=STOP_SECONDS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a Messaging API until it is stopped. Return the process's exit code."""
    return run_process(MAPI, arguments)


if __name__ == "__main__":
    sys.exit(main())
