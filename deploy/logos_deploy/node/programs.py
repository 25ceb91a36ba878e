"""The processes of a node as commands, for `logos up` (configured by arguments) and `launch` (by
variables)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ipc_schema.config.sources import CONFIG_FILE, to_environment, variable_of
from logos_deploy.node.plan import NodePlan
from logos_deploy.node.processes import PROCESSES, SCHEMAS, without_own_variables

STOP_SECONDS: Final = 6
"""Seconds from TERM to KILL: the processes stop by themselves sooner."""


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
        return {**without_own_variables(environ), **self.variables}


def programs_of(plan: NodePlan) -> list[Program]:
    """Return processes that read arguments, and the environment and file that the plan was made from."""
    programs = []
    for table in plan.tables:
        kind, command = PROCESSES[table], _python(table, *plan.arguments(table))
        programs.append(Program(table, command, kind.priority, kind.start_seconds))
    return programs


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
        programs.append(Program(table, command, PROCESSES[table].priority, variables=variables))
    return programs


def _python(table: str, *arguments: str) -> tuple[str, ...]:
    # -P: do not import from the working directory
    return (sys.executable, "-P", "-m", PROCESSES[table].module, *arguments)
