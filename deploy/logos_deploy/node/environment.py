"""The configuration of a running process, from /proc (Linux)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ipc_schema.config.bridge import BRIDGE_SCHEMA, load_bridge_config
from ipc_schema.config.gateway import GATEWAY_SCHEMA, load_gateway_config
from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA, load_mapi_config
from ipc_schema.config.options import Resolved, Schema
from ipc_schema.config.sources import add_arguments, config_file_of
from logos_process.config_file import read_toml

_MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "kernel": ("kernel_proc", "logos-kernel"),
    "mapi": ("mapi_proc", "logos-mapi"),
    "gateway": ("logos_gateway", "logos-gateway"),
    "bridge": ("logos_bridge", "logos-bridge"),
}
_CONFIGURATIONS: Final[Mapping[str, tuple[Schema[Any], Callable[..., Any]]]] = {
    "kernel": (KERNEL_SCHEMA, load_kernel_config),
    "mapi": (MAPI_SCHEMA, load_mapi_config),
    "gateway": (GATEWAY_SCHEMA, load_gateway_config),
    "bridge": (BRIDGE_SCHEMA, load_bridge_config),
}


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
    schema, load = _CONFIGURATIONS[table]
    start = next(
        (
            index + 1
            for index, word in enumerate(command)
            if word in _MODULES[table] or Path(word).name in _MODULES[table]
        ),
        None,
    )
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
    resolved: Resolved[Any] = load(flags=flags, environ=environ, file=file).resolved
    return resolved
