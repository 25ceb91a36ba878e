"""The processes of a node as commands, for `logos up` (configured by arguments) and `launch` (by
variables)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ipc_schema.config.sources import CONFIG_FILE, to_environment, variable_of
from logos_deploy.node.overrides import SCHEMAS
from logos_deploy.node.plan import NodePlan

STOP_SECONDS: Final = 6
"""Seconds from TERM to KILL: the processes stop by themselves sooner."""

_PRIORITIES: Final = {"kernel": 10, "mapi": 20, "gateway": 30, "bridge": 30}
_MODULES: Final = {
    "kernel": "kernel_proc",
    "mapi": "mapi_proc",
    "gateway": "logos_gateway",
    "bridge": "logos_bridge",
}
_START_SECONDS: Final = {"gateway": 2, "bridge": 2}
"""If gateway or bridge cannot run, the node runs on without them."""
OWN_VARIABLES: Final = ("LOGOS_KERNEL_", "LOGOS_MAPI_", "LOGOS_GATEWAY_", "LOGOS_BRIDGE_")


@dataclass(frozen=True, slots=True)
class Program:
    """One process. A lower `priority` starts earlier and stops later."""

    name: str
    command: Sequence[str]
    priority: int = 0
    start_seconds: int = 0
    """How long it must live to count as started under supervisord. One that ends sooner is tried a few times
    more, with growing pauses, and then left out; with 0 it is started again for ever."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables that configure it, if its arguments do not."""

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables for starting it: ours without those that would configure the node unnoticed,
        plus its own."""
        kept = {name: value for name, value in environ.items() if not name.startswith(OWN_VARIABLES)}
        return {**kept, **self.variables}


def programs_of(plan: NodePlan) -> list[Program]:
    """Return processes that read arguments, and the environment and file that the plan was made from."""
    return [
        Program(
            table,
            _python(table, *plan.arguments(table)),
            _PRIORITIES[table],
            _START_SECONDS.get(table, 0),
        )
        for table in plan.tables
    ]


def launch_programs(plan: NodePlan) -> list[Program]:
    """Return processes that are configured by the environment alone.

    A program's options may hold secrets, and every user of the host can read a command line. Only the data
    directory is on it, to distinguish several nodes.
    """
    programs = []
    for table in plan.tables:
        schema, options = SCHEMAS[table], plan.options[table]
        variables = to_environment(schema, options)
        if (file := plan.files.get(table)) is not None:
            variables[variable_of(schema, CONFIG_FILE)] = file
        command = _python(table, f"--data-dir={options['data-dir']}")
        programs.append(Program(table, command, _PRIORITIES[table], variables=variables))
    return programs


def _python(table: str, *arguments: str) -> tuple[str, ...]:
    # -P: do not import from the working directory
    return (sys.executable, "-P", "-m", _MODULES[table], *arguments)
