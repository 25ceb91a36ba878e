"""`logos bridge status`: what the bridge between the node and NATS JetStream does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, Final

from logos_deploy.commands.output import print_result
from logos_deploy.commands.where import add_where, where
from logos_deploy.control import bridge_status
from logos_deploy.exits import CommandError, Exit
from logos_deploy.text import count

HELP: Final = "look at the bridge between the node and NATS JetStream"

_FROZEN_SECONDS: Final = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="action", required=True)
    status = commands.add_parser(
        "status", help="show whether it works, its lag and its sends", allow_abbrev=False
    )
    status.add_argument("--json", action="store_true", help="everything, as JSON")
    add_where(status)


def run(arguments: argparse.Namespace) -> int:
    place = where(arguments)
    found = bridge_status(place.run_dir)
    if found is None:
        raise CommandError(Exit.UNAVAILABLE, f"no bridge runs in {place.data_dir} (is nats-url set?)")
    silent = (time.time_ns() - int(found["atNs"])) / 1e9
    if silent > _FROZEN_SECONDS:
        found["ready"] = False
        found["troubles"] = {
            **found["troubles"],
            "process": f"it has not written its state for {silent:.0f} s",
        }
    print_result(arguments, found, as_text(found))
    return Exit.OK if found["ready"] else Exit.FAILED


def as_text(found: dict[str, Any]) -> Iterator[str]:
    """Format the status."""
    state = "works" if found["ready"] else "does not work"
    yield f"bridge   {state}, process {found['pid']}, version {found['version']}"
    for part, reason in sorted(found["troubles"].items()):
        yield f"         {part}: {reason}"
    nats = found.get("nats", {})
    yield f"nats     {nats.get('server') or 'not connected'}, prefix {nats.get('prefix')}"
    for shard, one in found.get("out", {}).items():
        missing = f", {len(one['missing'])} spans missing" if one["missing"] else ""
        yield f"out      shard {shard}: {one['lagSeconds']:.1f} s behind{missing}"
    if "in" in found:
        queue = str(found["in"]["queue"]) if found["in"]["queue"] >= 0 else "an unknown number"
        yield f"in       {count(found['in']['open'], 'send')} under way, {queue} in the queue"
    if found.get("others"):
        yield f"others   {', '.join(found['others'])}"
