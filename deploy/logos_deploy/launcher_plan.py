"""From the arguments of `launch` to what its two processes are told. Pure but for the working directory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ipc_schema.config.kernel import KERNEL_SCHEMA, KernelConfig, load_kernel_config
from ipc_schema.config.kinds import ALL
from ipc_schema.config.mapi import (
    MAPI_SCHEMA,
    MapiConfig,
    Mode,
    derive_kernel,
    derive_mapi,
    load_mapi_config,
)
from ipc_schema.config.options import ConfigError, PortUse, Schema, refuse_port_clashes
from ipc_schema.config.sources import to_environment
from logos_deploy.node.plan import NodePlan, joins_all_shards, listening_ports

__all__ = ["LaunchPlan", "Program", "config_error_of", "plan_launch"]

DEFAULT_DATA_DIR: Final = "./data"
_OF_THE_LAUNCH: Final = frozenset({"kernel-dir", "kernel-requests", "kernel-control"})
_OWN_VARIABLES: Final = ("LOGOS_KERNEL_", "LOGOS_MAPI_")


@dataclass(frozen=True, slots=True)
class Program:
    """One process: its name, its command, and the variables that configure it."""

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The app's environment, without what would configure the node behind the app's back."""
        kept = {name: value for name, value in environ.items() if not name.startswith(_OWN_VARIABLES)}
        return {**kept, **self.variables}


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """A node, checked."""

    data_dir: Path
    kernel: KernelConfig
    mapi: MapiConfig
    programs: tuple[Program, Program]
    ports: tuple[PortUse, ...]
    """TCP ports that it will listen on, without those that are automatic."""


def plan_launch(
    preset: str, mode: Mode | str, overrides: Mapping[str, object], data_dir: str | Path | None
) -> LaunchPlan:
    """Resolve the whole configuration. Raises `ConfigError` naming the key."""
    given = dict(overrides)
    for key in _OF_THE_LAUNCH & given.keys():
        raise ConfigError(key, "is decided by the launch, whose own kernel it is")
    if data_dir is not None:
        if "data-dir" in given:
            raise ConfigError("data-dir", "is given twice: as an argument and as an override")
        given["data-dir"] = data_dir
    directory = Path(str(given.get("data-dir", DEFAULT_DATA_DIR))).absolute()
    given["data-dir"] = str(directory)
    kernel_options = derive_kernel(preset, mode, given)
    kernel = load_kernel_config(flags=kernel_options)
    if joins_all_shards(kernel):
        kernel_options["shard"] = (ALL,)
        kernel = load_kernel_config(flags=kernel_options)
    mapi_options = derive_mapi(preset, mode, given)
    mapi_options["kernel-dir"] = kernel.ipc_dir
    if kernel.resolved.explicit("ipc-requests"):
        mapi_options["kernel-requests"] = kernel.endpoints.requests
    mapi = load_mapi_config(flags=mapi_options)
    mapi.check_network(kernel.network)
    node = NodePlan(data_dir=directory, kernel=kernel, kernel_arguments=(), mapi=mapi, mapi_arguments=())
    ports = tuple(listening_ports(node))
    refuse_port_clashes(ports)
    return LaunchPlan(
        ports=ports,
        data_dir=directory,
        kernel=kernel,
        mapi=mapi,
        programs=(
            _program("kernel", "kernel_proc", KERNEL_SCHEMA, kernel_options),
            _program("mapi", "mapi_proc", MAPI_SCHEMA, mapi_options),
        ),
    )


def _program(name: str, module: str, schema: Schema, options: Mapping[str, object]) -> Program:
    # -P: the working directory holds no modules. The options travel in the environment, since every user of
    # the host can read a command line; the data directory stands there to tell several nodes apart.
    directory = str(options["data-dir"])
    command = (sys.executable, "-P", "-m", module, f"--data-dir={directory}")
    return Program(name, command, to_environment(schema, options))


def config_error_of(said: str) -> ConfigError | None:
    """The `ConfigError` that a process ended with, from the last line it said; None when that was none."""
    for program in ("logos-kernel: ", "logos-mapi: "):
        if said.startswith(program):
            key, colon, text = said.removeprefix(program).partition(": ")
            if colon and (key in KERNEL_SCHEMA or key in MAPI_SCHEMA):
                return ConfigError(key, text)
    return None
