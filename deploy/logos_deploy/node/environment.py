"""The configuration of a running process, from /proc (Linux)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipc_schema.config.options import Resolved
from ipc_schema.config.sources import add_arguments, config_file_of
from logos_deploy.node.processes import PROCESSES
from logos_process.config_file import read_toml


class ProcessConfigError(Exception):
    """The process cannot be inspected, or is not one of ours; the text says which."""


def config_of_process(table: str, pid: int) -> Resolved[Any]:
    """Resolve the configuration from the arguments and environment of process `pid`, with its file as it is
    now.

    `table`: `kernel`, `mapi`, `gateway` or `bridge`. Raises `ProcessConfigError`, or `ConfigError` if the
    file has become invalid.
    """
    root = Path(f"/proc/{pid}")
    try:
        arguments = _strings(root / "cmdline")
        environ = dict(variable.split("=", 1) for variable in _strings(root / "environ") if "=" in variable)
        cwd = (root / "cwd").readlink()
    except OSError as error:
        raise ProcessConfigError(f"cannot look at process {pid}: {error.strerror or error}") from None
    return resolved_from(table, arguments, environ, cwd)


def _strings(path: Path) -> list[str]:
    return [os.fsdecode(part) for part in path.read_bytes().split(b"\0")[:-1]]


def resolved_from(table: str, command: Sequence[str], environ: Mapping[str, str], cwd: Path) -> Resolved[Any]:
    """Resolve the configuration of a whole command line (interpreter and program first).

    Raises `ProcessConfigError` for another program.
    """
    kind = PROCESSES[table]
    schema, programs = kind.schema, (kind.module, f"logos-{table}")
    words = enumerate(command)
    start = next((at + 1 for at, word in words if word in programs or Path(word).name in programs), None)
    if start is None:
        raise ProcessConfigError(f"the process was not started as {table}: {' '.join(command[:4])}")
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_arguments(parser, schema)
    try:
        flags = vars(parser.parse_known_args(list(command[start:]))[0])
    except argparse.ArgumentError as error:
        raise ProcessConfigError(f"its command line cannot be read: {error}") from None
    path = config_file_of(schema, flags, environ)
    file = read_toml(str(cwd / path)) if path else None
    resolved: Resolved[Any] = kind.load(flags=flags, environ=environ, file=file).resolved
    return resolved
