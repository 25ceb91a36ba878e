"""The node that a command is about: its directories, from the same sources as the node's own."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA, load_mapi_config
from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import CONFIG_FILE, config_file_of
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, kernel_directory, mapi_directory
from logos_deploy.exits import CommandError, Exit
from logos_deploy.node.conf import SupervisorPaths, supervisor_paths
from logos_process.config_file import read_toml


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlace:
    """Location of a node's sockets and locks."""

    data_dir: Path
    run_dir: Path
    """The kernel's."""
    mapi_run_dir: Path
    kernel: KernelEndpoints
    mapi: MapiEndpoints
    supervisor: SupervisorPaths


def add_where(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Add the arguments that name a node.

    `again`: they may appear both before and behind a subcommand; a default behind it does not override a
    value before it.
    """
    group = parser.add_argument_group("which node")
    for name, kind, text in (
        ("--data-dir", "DIR", "its data directory (default: ./data)"),
        ("--ipc-dir", "DIR", "its socket directory (default: <data-dir>/run)"),
        ("--config-file", "FILE", "its TOML file"),
    ):
        group.add_argument(name, metavar=kind, help=text, default=argparse.SUPPRESS if again else None)


def add_query_options(parser: argparse.ArgumentParser, *, again: bool = False, seconds: float = 5.0) -> None:
    """Add `--json`, `--timeout` (by default `seconds`) and the arguments that name a node; `again` as in
    `add_where`."""
    left: Any = argparse.SUPPRESS
    parser.add_argument(
        "--json", action="store_true", default=left if again else False, help="print one JSON object"
    )
    text = f"(default: {seconds:g})"
    parser.add_argument(
        "--timeout", type=float, default=left if again else seconds, metavar="SECONDS", help=text
    )
    add_where(parser, again=again)


def where(arguments: argparse.Namespace, *, denied: Exit = Exit.UNAVAILABLE) -> NodePlace:
    """Locate the node that the arguments, the environment and the file name.

    Raises `ConfigError`, and `CommandError` with the code `denied` for directories of another user.
    """
    place = _place(arguments)
    for directory in (kernel_directory(place.run_dir), mapi_directory(place.mapi_run_dir)):
        try:
            directory.stat()
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            file = next(path for path in directory.parents if path.exists())
            raise ConfigError("data-dir", f"{file} is not a directory") from None
        except PermissionError:
            raise CommandError(
                denied,
                f"the node in {place.data_dir} is another user's, this is uid {os.geteuid()}: run as its "
                "owner, or have the node give access with ipc-group",
            ) from None
    return place


def _place(arguments: argparse.Namespace) -> NodePlace:
    said = {CONFIG_FILE: arguments.config_file}
    flags = {"data-dir": arguments.data_dir, "ipc-dir": arguments.ipc_dir}
    files = {}
    for schema in (KERNEL_SCHEMA, MAPI_SCHEMA):
        path = config_file_of(schema, said, os.environ)
        files[schema.table] = read_toml(path) if path else None
    kernel = load_kernel_config(flags=flags, environ=os.environ, file=files["kernel"])
    # as in `logos up`: MAPI is beside its kernel unless configured otherwise
    mapi = load_mapi_config(flags=flags, environ=os.environ, file=files["mapi"])
    beside = {
        name: getattr(kernel, name.replace("-", "_"))
        for name in ("data-dir", "ipc-dir")
        if not mapi.resolved.explicit(name)
    }
    mapi = load_mapi_config(flags=flags | beside, environ=os.environ, file=files["mapi"])
    run_dir = Path(kernel.ipc_dir)
    return NodePlace(
        data_dir=Path(kernel.data_dir),
        run_dir=run_dir,
        mapi_run_dir=Path(mapi.ipc_dir),
        kernel=kernel.endpoints,
        mapi=mapi.endpoints,
        supervisor=supervisor_paths(
            Path(kernel.data_dir), run_dir if kernel.resolved.explicit("ipc-dir") else None
        ),
    )
