"""`logos config`: every option of all processes, with its value and source."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

from ipc_schema.config.common import describe
from ipc_schema.config.options import ConfigError
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import print_result
from logos_deploy.commands.up import add_node, plan_of
from logos_deploy.commands.where import NodePlace, where
from logos_deploy.control import ask_health, bridge_status, gateway_addresses
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.environment import ProcessConfigError, config_of_process
from logos_deploy.text import one_line, table

HELP: Final = "show the configuration of a node, with the source of each value"

Rows = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--running", action="store_true", help="of the running node, not of one that these arguments describe"
    )
    parser.add_argument("--all", action="store_true", help="also options at their default")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    add_node(parser)
    parser.add_argument(
        "--ipc-dir", metavar="DIR", help="with --running: its socket directory (default: <data-dir>/run)"
    )


def run(arguments: argparse.Namespace) -> int:
    if not arguments.running and arguments.ipc_dir is not None:
        arguments.overrides.append(f"ipc-dir={arguments.ipc_dir}")
    if arguments.running and (words := _words_of_a_node_to_be(arguments)):
        raise CommandError(Exit.USAGE, f"--running: {words} is for a node that does not run yet")
    found = (
        asyncio.run(_of_the_running(where(arguments))) if arguments.running else _of_a_node_to_be(arguments)
    )
    print_result(arguments, found, as_text(found, everything=arguments.all), indent=2)
    return Exit.OK


def _words_of_a_node_to_be(arguments: argparse.Namespace) -> str:
    said = {"--preset": arguments.preset, "--mode": arguments.mode, "--kernel-only": arguments.kernel_only}
    return next((name for name, value in said.items() if value), "") or " ".join(arguments.overrides)


def _of_a_node_to_be(arguments: argparse.Namespace) -> dict[str, Rows | None]:
    plan = plan_of(arguments)
    found: dict[str, Rows | None] = {
        table: None if config is None else config.describe() for table, config in plan.configs.items()
    }
    for table_name, rows in found.items():
        for row in rows or ():
            # `logos up` passes these on as flags, but the operator did not set them
            if (why := plan.derived.get((table_name, row["name"]))) is not None:
                row |= {"origin": "derived", "detail": f"from {why}"}
    return found


async def _of_the_running(place: NodePlace) -> dict[str, Rows | None]:
    """Ask the kernel for its own. The others have no such request, so re-read their command lines."""
    try:
        async with KernelClient.connect(place.kernel, timeout=3.0) as client:
            kernel: Rows = [option.to_body() for option in await client.config()]
    except LogosError as error:
        raise CommandError(Exit.UNAVAILABLE, f"the kernel does not answer: {error}") from None
    health = await ask_health(place.mapi.control)
    gateway = gateway_addresses(place.run_dir)
    bridge = bridge_status(place.run_dir)
    return {
        "kernel": kernel,
        "mapi": None if health is None else _of_process("mapi", health.common.pid),
        "gateway": None if gateway is None else _of_process("gateway", gateway[0]),
        "bridge": None if bridge is None else _of_process("bridge", bridge["pid"]),
    }


def _of_process(table: str, pid: int) -> Rows:
    try:
        resolved = config_of_process(table, pid)
    except (ProcessConfigError, ConfigError) as error:
        raise CommandError(Exit.FAILED, f"{table}: {error}") from None
    return describe(resolved.schema, resolved)


def as_text(found: dict[str, Rows | None], *, everything: bool) -> Iterator[str]:
    """Format a table per process; options at their default only if `everything` is wanted."""
    for name, rows in found.items():
        if rows is None:
            yield f"{name}: none"
            continue
        shown = [row for row in rows if everything or row.get("origin") != "default"]
        yield name
        if shown:
            yield table(_cells(shown))
        if len(shown) < len(rows):
            yield f"  and {len(rows) - len(shown)} options at their default (--all shows them)"


def _cells(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Give each item of a list a line of its own."""
    for row in rows:
        source = f"{row.get('origin', '')} {row.get('detail', '')}".rstrip()
        value = row.get("value")
        first, *others = value if isinstance(value, list | tuple) and value else [value]
        yield f"  {row['name']}", one_line(_value(first)), source
        for item in others:
            yield "", one_line(_value(item)), ""


def _value(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "-"
    return str(value)
