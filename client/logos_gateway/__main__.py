"""`logos-gateway` and `python -m logos_gateway`: HTTP in front of a node."""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

from ipc_schema.config.gateway import GATEWAY_SCHEMA, GatewayConfig, load_gateway_config
from logos_process.main import Process, run_process
from logos_process.stopping import StopLimit


def _run(config: GatewayConfig, limit: StopLimit) -> int:
    import uvloop

    from logos_gateway.service import serve

    return uvloop.run(serve(config, limit))


GATEWAY: Final = Process(
    program="logos-gateway",
    description="REST, event streams, metrics and a dashboard for a Waku node, over HTTP.",
    package="logos_gateway",
    schema=GATEWAY_SCHEMA,
    load=load_gateway_config,
    run=_run,
)

main: Final = partial(run_process, GATEWAY)
"""Run the process until it is stopped. Take the command line, and return the exit code."""


if __name__ == "__main__":
    sys.exit(main())
