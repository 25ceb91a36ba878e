"""`logos restore`: restore a backup into a data directory."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

from logos_deploy.commands.output import print_json
from logos_deploy.commands.where import NodePlace, add_where, where
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.backup import DATABASE, BackupError, read_backup, restore
from logos_deploy.node.running import holders
from logos_deploy.text import size, table

HELP: Final = "put a backup into a data directory whose node does not run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="made by logos backup")
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="FILE",
        help="where the archive goes (default: <data-dir>/store.sqlite3)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_where(parser)


def run(arguments: argparse.Namespace) -> int:
    place = where(arguments)
    _refuse_running(place)
    try:
        files = read_backup(arguments.directory)
    except BackupError as error:
        raise CommandError(Exit.DATA, str(error)) from None
    aside = restore(
        arguments.directory,
        files,
        place.data_dir,
        archive=arguments.archive,
        aside=f"replaced-{time.time_ns() // 1_000_000_000}",
    )
    if arguments.json:
        print_json({"files": list(files), "replaced": None if aside is None else str(aside)})
        return Exit.OK
    print(table([(one.name, size(one.size)) for one in files], right=(1,)))
    if aside is not None:
        print(f"what was there is in {aside}")
    if any(one.name == DATABASE for one in files):
        print("at its next start every app gets a new stream, so that no number stands for two events")
    return Exit.OK


def _refuse_running(place: NodePlace) -> None:
    running = holders(place.supervisor, place.run_dir, place.mapi_run_dir)
    if running:
        names = ", ".join(f"{one.role} (process {one.pid})" for one in running)
        raise CommandError(
            Exit.IN_USE, f"a node runs in {place.data_dir}: {names}; stop it first by `logos down`"
        )
