"""The kinds of processes of a node, in the order in which they start: how each is configured and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ipc_schema.config.bridge import BRIDGE_SCHEMA, load_bridge_config
from ipc_schema.config.gateway import GATEWAY_SCHEMA, load_gateway_config
from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA, load_mapi_config
from ipc_schema.config.options import Schema
from ipc_schema.config.sources import variable_of


class ProcessKind(NamedTuple):
    """`load`: builds the configuration from `flags`, `environ` and `file`; `module`: `python -m` runs it."""

    schema: Schema[Any]
    load: Callable[..., Any]
    module: str
    priority: int
    """A lower one starts earlier and stops later."""
    start_seconds: int = 0
    """See `Program`. If gateway or bridge cannot run, the node runs on without them."""


PROCESSES: Final[Mapping[str, ProcessKind]] = {
    "kernel": ProcessKind(KERNEL_SCHEMA, load_kernel_config, "kernel_proc", 10),
    "mapi": ProcessKind(MAPI_SCHEMA, load_mapi_config, "mapi_proc", 20),
    "gateway": ProcessKind(GATEWAY_SCHEMA, load_gateway_config, "logos_gateway", 30, 2),
    "bridge": ProcessKind(BRIDGE_SCHEMA, load_bridge_config, "logos_bridge", 30, 2),
}
"""By the table of the configuration file."""
SCHEMAS: Final[Mapping[str, Schema[Any]]] = {table: kind.schema for table, kind in PROCESSES.items()}
OWN_VARIABLES: Final = tuple(variable_of(schema, "") for schema in SCHEMAS.values())
"""Prefixes of the variables that configure a process."""


def without_own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that would configure a process unnoticed."""
    return {name: value for name, value in environ.items() if not name.startswith(OWN_VARIABLES)}
