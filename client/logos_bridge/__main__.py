"""`logos-bridge` and `python -m logos_bridge`: between a node and NATS JetStream."""

from __future__ import annotations

import sys
from functools import partial
from typing import Final

from ipc_schema.config.bridge import BRIDGE_SCHEMA, BridgeConfig, load_bridge_config
from logos_process.exits import StartError
from logos_process.extras import install_command
from logos_process.garbage import collect_less
from logos_process.main import Process, run_process
from logos_process.stopping import StopLimit


def _run(config: BridgeConfig, limit: StopLimit) -> int:
    import uvloop

    try:
        from logos_bridge.service import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("nats", "nkeys"):
            raise
        raise StartError(f"the NATS client is missing: {install_command('bridge')}") from None
    collect_less()
    return uvloop.run(serve(config, limit))


BRIDGE: Final = Process(
    program="logos-bridge",
    description="Messages of a Waku node to NATS JetStream, and sends from there.",
    package="logos_bridge",
    schema=BRIDGE_SCHEMA,
    load=load_bridge_config,
    run=_run,
)

main: Final = partial(run_process, BRIDGE)
"""Run the process until it is stopped. Take the command line, and return the exit code."""


if __name__ == "__main__":
    sys.exit(main())
