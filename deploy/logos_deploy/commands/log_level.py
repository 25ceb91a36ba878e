"""`logos log-level`: show or change what a running node logs. A restart returns to the configuration."""

from __future__ import annotations

import argparse
from typing import Final

from ipc_schema.config.kinds import LOG_LEVEL
from logos_client.control import ControlClient
from logos_deploy.commands.output import print_json
from logos_deploy.commands.where import NodePlace, add_query_options, where
from logos_deploy.control import ask_health
from logos_deploy.exits import CommandError, Exit
from logos_deploy.session import run_interruptible

HELP: Final = "show or change the log level of a running node, until it is restarted"

_UNKNOWN: Final = "unknown"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("level", nargs="?", metavar="LEVEL", help=f"the new one: {LOG_LEVEL.name}")
    parser.add_argument("--logger", metavar="NAME", help="of this part only, such as kernel_proc.relay")
    parser.add_argument("--process", choices=("kernel", "mapi"), help="of one process only (default: both)")
    add_query_options(parser, seconds=2.0)


def run(arguments: argparse.Namespace) -> int:
    if arguments.level is None and arguments.logger is not None:
        raise CommandError(Exit.USAGE, "--logger needs a level")
    if arguments.level is not None:
        try:
            arguments.level = LOG_LEVEL.parse(arguments.level)
        except ValueError as error:
            raise CommandError(Exit.DATA, str(error)) from None
    return run_interruptible(_log_level(where(arguments), arguments))


async def _log_level(place: NodePlace, arguments: argparse.Namespace) -> int:
    controls = {"kernel": place.kernel.control, "mapi": place.mapi.control}
    if arguments.process:
        controls = {arguments.process: controls[arguments.process]}
    elif arguments.logger:
        # A logger belongs to one process; the other would refuse it.
        owner = "mapi" if arguments.logger.startswith("mapi") else "kernel"
        controls = {owner: controls[owner]}
    found: dict[str, dict[str, str]] = {}
    for process, endpoint in controls.items():
        health = await ask_health(endpoint, arguments.timeout)
        if health is None:
            continue
        if arguments.level is None:
            found[process] = {"level": str(health.more.get("log_level", _UNKNOWN))}
            continue
        async with ControlClient.connect(endpoint, timeout=arguments.timeout) as control:
            previous = await control.set_log_level(arguments.level, arguments.logger)
        found[process] = {"level": arguments.level, "previous": previous}
    if not found:
        raise CommandError(Exit.UNAVAILABLE, f"no process of a node answers in {place.data_dir}")
    if arguments.json:
        print_json(found)
    else:
        for process, row in found.items():
            before = f" (was {row['previous']})" if "previous" in row else ""
            print(f"{process:<7} {row['level']}{before}")
    return Exit.OK
