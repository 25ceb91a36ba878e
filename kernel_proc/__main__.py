"""`logos-kernel` and `python -m kernel_proc`: a Waku node without a Messaging API."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Final

from ipc_schema.config.kernel import KERNEL_SCHEMA, KernelConfig, load_kernel_config
from logos_process import logs
from logos_process.garbage import collect_less
from logos_process.main import Process, run_process
from logos_process.service_manager import ServiceManager
from logos_process.stopping import StopLimit

STOP_SECONDS: Final = 4.0


def _prepare() -> None:
    # Import before logging is set up: importing libp2p configures logging, switches propagation off, and
    # makes it report each failed dial or reset stream as an error. The kernel reports what an operator must
    # know of those itself.
    import kernel_proc.node  # noqa: F401

    logs.silence("libp2p")
    collect_less()


def _run(config: KernelConfig, limit: StopLimit) -> int:
    import trio

    from kernel_proc.node import Node
    from kernel_proc.reactor import ReactorClock

    manager = ServiceManager.take(os.environ)

    async def run() -> int:
        return await Node(config).run(signals=True, stopping=limit.start, manager=manager)

    return trio.run(run, clock=ReactorClock())


KERNEL: Final = Process(
    program="logos-kernel",
    description="A Waku node without a Messaging API.",
    package="kernel_proc",
    schema=KERNEL_SCHEMA,
    load=load_kernel_config,
    prepare=_prepare,
    run=_run,
    stop_seconds=STOP_SECONDS,
)

main: Final = partial(run_process, KERNEL)
"""Run the process until it is stopped. Take the command line, and return the exit code."""


if __name__ == "__main__":
    sys.exit(main())
