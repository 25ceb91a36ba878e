"""`logos-mapi` and `python -m mapi_proc`: the Messaging API of a Waku node."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Final

from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig, load_mapi_config
from logos_process.exits import ExitCode
from logos_process.garbage import collect_less
from logos_process.main import Process, run_process
from logos_process.stopping import StopLimit, stop_signals


def _run(config: MapiConfig, limit: StopLimit) -> int:
    import uvloop

    collect_less()
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
)

main: Final = partial(run_process, MAPI)
"""Run the process until it is stopped. Take the command line, and return the exit code."""


if __name__ == "__main__":
    sys.exit(main())
