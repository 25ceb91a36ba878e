"""`logos backup`: copy what a node must not lose, also while it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ipc_schema.config.archive import parse_database_url
from ipc_schema.config.options import ConfigError
from logos_client.exceptions import LogosError
from logos_client.kernel import KernelClient
from logos_deploy.commands.output import print_json
from logos_deploy.commands.where import NodePlace, add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.backup import ARCHIVE, BackupError, back_up
from logos_deploy.session import run_interruptible
from logos_deploy.text import size, table
from logos_process.version import version

HELP: Final = "copy a node's key, apps, peers and archive to a directory, also while it runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="to be made; for its owner only")
    parser.add_argument("--without-archive", action="store_true", help="leave the messages of its store out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    return run_interruptible(_backup(where(arguments), arguments))


async def _backup(place: NodePlace, arguments: argparse.Namespace) -> int:
    archive, note = (None, "") if arguments.without_archive else await _archive(place)
    try:
        made = back_up(
            place.data_dir,
            arguments.directory,
            archive=archive,
            spool=not arguments.without_archive,
            version=version(),
        )
    except BackupError as error:
        raise CommandError(Exit.FAILED, str(error)) from None
    if arguments.json:
        print_json({"directory": str(arguments.directory.absolute()), "files": list(made), "note": note})
    else:
        print(table([(one.name, size(one.size)) for one in made], right=(1,)))
        if note:
            print(note)
    return Exit.OK


async def _archive(place: NodePlace) -> tuple[Path | None, str]:
    """Return the file of the node's archive; if it is not in a file, None and what the operator must do."""
    url = f"sqlite://{ARCHIVE}"
    try:
        async with KernelClient.connect(place.kernel, timeout=2.0) as client:
            values = {one.name: one.value for one in await client.config()}
        if isinstance(values.get("store-message-db-url"), str):
            url = str(values["store-message-db-url"])
    except (LogosError, TimeoutError):
        pass  # it does not run: the usual file, if there is one
    if not url.startswith("sqlite:"):
        return None, "the archive is in PostgreSQL: back it up with pg_dump"
    try:
        return parse_database_url(url, place.data_dir).path, ""
    except ValueError as error:
        raise ConfigError("store-message-db-url", str(error)) from None
