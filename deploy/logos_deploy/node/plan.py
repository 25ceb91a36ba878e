"""From what an operator says to what the processes of one node are told. Pure: files come in as a reader.

The processes read the same sources again (file, environment), so only what was said on the command line, and
what follows from the kernel for MAPI, is passed on as flags. Everything is resolved here first: a
configuration that a process would refuse is refused before anything is started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ipc_schema.config.kernel import KERNEL_SCHEMA, KernelConfig, load_kernel_config
from ipc_schema.config.kinds import ALL
from ipc_schema.config.mapi import MAPI_SCHEMA, MapiConfig, Mode, load_mapi_config
from ipc_schema.config.options import ConfigError, PortUse, Resolved, Schema, refuse_port_clashes
from ipc_schema.config.sources import CONFIG_FILE, TomlFile, config_file_of, to_flags, visible_secret

__all__ = ["NodePlan", "NodeRequest", "joins_all_shards", "listening_ports", "plan_node"]

ReadToml = Callable[[str], TomlFile]
"""Reads and parses a configuration file. Raises `ConfigError`."""

_SCHEMAS: Final[Mapping[str, Schema]] = {"kernel": KERNEL_SCHEMA, "mapi": MAPI_SCHEMA}
# Named alike in both processes, but a value for both would make them clash.
_OWN_TO_EACH: Final = frozenset({"ipc-control", "metrics-server-port"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequest:
    """What was said on the command line. `overrides`: `key=value`, `kernel.key=value`, `mapi.key=value`."""

    preset: str | None = None
    mode: str | None = None
    kernel_only: bool = False
    data_dir: str | None = None
    config_file: str | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node, checked. The arguments are those of `python -m kernel_proc` and `python -m mapi_proc`."""

    data_dir: Path
    """Absolute."""
    kernel: KernelConfig
    kernel_arguments: tuple[str, ...]
    mapi: MapiConfig | None
    """None: the kernel alone."""
    mapi_arguments: tuple[str, ...]
    derived: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(table, option) of the flags that nobody gave → where their values come from."""


@dataclass(slots=True)
class _Said:
    """Options given on the command line, by process. Lists are collected, anything else only once."""

    flags: dict[str, dict[str, Any]] = field(default_factory=lambda: {table: {} for table in _SCHEMAS})

    def put(self, table: str, key: str, value: str) -> None:
        option = _SCHEMAS[table].option(key)
        if option.secret_in(value):
            raise visible_secret(_SCHEMAS[table], key)
        values = self.flags[table]
        if option.repeatable:
            values.setdefault(option.name, []).append(value)
        elif option.name in values:
            raise ConfigError(key, "is given twice on the command line")
        else:
            values[option.name] = value


def plan_node(
    request: NodeRequest, environ: Mapping[str, str], read_toml: ReadToml, cwd: str | Path
) -> NodePlan:
    """Resolve the whole configuration of a node. Raises `ConfigError` naming the key."""
    tables = ("kernel",) if request.kernel_only else ("kernel", "mapi")
    said = _collect(request, tables)
    files = {table: _file_of(table, request, environ, read_toml, cwd) for table in tables}

    flags = said.flags["kernel"]
    kernel = load_kernel_config(flags=flags, environ=environ, file=files["kernel"])
    edge = not request.kernel_only and _is_edge(said.flags["mapi"], environ, files["mapi"])
    derived: dict[tuple[str, str], str] = {}
    if edge and not kernel.resolved.explicit("relay"):
        flags["relay"] = "false"
        derived["kernel", "relay"] = "mode edge"
    _make_absolute("kernel", ("data-dir", "ipc-dir"), kernel.resolved, flags, derived, cwd)
    if "data-dir" not in flags:
        derived["kernel", "data-dir"] = kernel.resolved.source_of("data-dir").source()
        flags["data-dir"] = _absolute(cwd, kernel.data_dir)
    data_dir = Path(str(flags["data-dir"]))
    kernel = load_kernel_config(flags=flags, environ=environ, file=files["kernel"])
    if joins_all_shards(kernel):
        flags["shard"] = (ALL,)
        derived["kernel", "shard"] = "a node that relays"
        kernel = load_kernel_config(flags=flags, environ=environ, file=files["kernel"])
    kernel_arguments = _arguments("kernel", flags, files["kernel"])
    if request.kernel_only:
        return NodePlan(
            data_dir=data_dir,
            kernel=kernel,
            kernel_arguments=kernel_arguments,
            mapi=None,
            mapi_arguments=(),
            derived=derived,
        )

    flags = said.flags["mapi"]
    bare = load_mapi_config(flags=flags, environ=environ, file=files["mapi"])
    for name, value in _derived(kernel, data_dir).items():
        if not bare.resolved.explicit(name):
            flags[name] = value
            derived["mapi", name] = "the kernel beside it"
    _make_absolute("mapi", ("data-dir", "ipc-dir", "kernel-dir"), bare.resolved, flags, derived, cwd)
    mapi = load_mapi_config(flags=flags, environ=environ, file=files["mapi"])
    _check_together(kernel, mapi)
    return NodePlan(
        data_dir=data_dir,
        kernel=kernel,
        kernel_arguments=kernel_arguments,
        mapi=mapi,
        mapi_arguments=_arguments("mapi", flags, files["mapi"]),
        derived=derived,
    )


def joins_all_shards(kernel: KernelConfig) -> bool:
    """Return whether a whole node carries every shard of its network, because it relays and names none."""
    return kernel.relay and kernel.network.shard_count > 0 and not kernel.resolved.explicit("shard")


def _make_absolute(
    table: str,
    names: Sequence[str],
    resolved: Resolved,
    flags: dict[str, Any],
    derived: dict[tuple[str, str], str],
    cwd: str | Path,
) -> None:
    """Whatever the processes' working directory will be, they mean the same directories as who says this."""
    for name in names:
        if resolved.explicit(name):
            if name not in flags:
                derived[table, name] = resolved.source_of(name).source()
            flags[name] = _absolute(cwd, resolved[name])


def _absolute(cwd: str | Path, path: str) -> str:
    return os.path.abspath(os.path.join(cwd, path))  # noqa: PTH100, PTH118 - pure


def _is_edge(flags: Mapping[str, object], environ: Mapping[str, str], file: TomlFile | None) -> bool:
    return load_mapi_config(flags=flags, environ=environ, file=file).mode is Mode.EDGE


def listening_ports(plan: NodePlan) -> list[PortUse]:
    """The TCP ports that the node will listen on, without those that are automatic."""
    return [use for use in _ports(plan.kernel, plan.mapi) if use.port]


def _collect(request: NodeRequest, tables: Sequence[str]) -> _Said:
    said = _Said()
    for key, value in (("preset", request.preset), ("data-dir", request.data_dir), ("mode", request.mode)):
        if value is not None:
            _give(said, tables, key, value)
    for override in request.overrides:
        key, equals, value = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(override, "is not key=value")
        _give(said, tables, key, value)
    return said


def _give(said: _Said, tables: Sequence[str], key: str, value: str) -> None:
    """Hand an option to the processes that have it."""
    prefix, dot, name = key.partition(".")
    if dot and prefix in _SCHEMAS:
        if prefix not in tables:
            raise ConfigError(key, "there is no MAPI with --kernel-only")
        said.put(prefix, name, value)
        return
    if key == CONFIG_FILE:
        raise ConfigError(key, f"is not an option of a process: give --{CONFIG_FILE}")
    having = [table for table in tables if key in _SCHEMAS[table]]
    if not having:
        if key in MAPI_SCHEMA:
            raise ConfigError(key, "is an option of MAPI, which --kernel-only leaves out")
        hints = (KERNEL_SCHEMA.hint(key), *(MAPI_SCHEMA.hint(key) for table in tables if table == "mapi"))
        raise ConfigError(key, f"there is no such option{next(filter(None, hints), '')}")
    if key in _OWN_TO_EACH and len(having) > 1:
        raise ConfigError(key, f"belongs to one process: give kernel.{key} or mapi.{key}")
    for table in having:
        said.put(table, key, value)


def _file_of(
    table: str, request: NodeRequest, environ: Mapping[str, str], read_toml: ReadToml, cwd: str | Path
) -> TomlFile | None:
    flags = {CONFIG_FILE: request.config_file}
    path = config_file_of(_SCHEMAS[table], flags, environ)
    return read_toml(str(Path(cwd, path))) if path else None


def _arguments(table: str, flags: Mapping[str, object], file: TomlFile | None) -> tuple[str, ...]:
    named = [f"--{CONFIG_FILE}={file.path}"] if file else []
    return (*named, *to_flags(_SCHEMAS[table], flags))


def _derived(kernel: KernelConfig, data_dir: Path) -> dict[str, object]:
    """What MAPI takes from the kernel beside it, where nobody says otherwise."""
    derived: dict[str, object] = {"data-dir": str(data_dir)}
    if kernel.network.preset:
        derived["preset"] = kernel.network.preset
    if kernel.resolved.explicit("ipc-dir"):
        derived["ipc-dir"] = kernel.ipc_dir
    derived["kernel-dir"] = kernel.ipc_dir
    for name in ("requests", "control"):
        if kernel.resolved.explicit(f"ipc-{name}"):
            derived[f"kernel-{name}"] = kernel.resolved[f"ipc-{name}"]
    return derived


def _check_together(kernel: KernelConfig, mapi: MapiConfig) -> None:
    """What only the two together can get wrong."""
    if kernel.relay is (mapi.mode is Mode.EDGE):
        wanted = "off" if kernel.relay else "on"
        raise kernel.resolved.refuse(
            "relay", f"must be {wanted}: the mode is {mapi.mode}; or give --kernel-only"
        )
    mapi.check_network(kernel.network)
    for name in ("requests", "control"):
        wanted, actual = getattr(mapi.kernel, name), getattr(kernel.endpoints, name)
        if wanted != actual:
            key = f"kernel-{name}" if mapi.resolved.explicit(f"kernel-{name}") else "kernel-dir"
            raise mapi.resolved.refuse(key, f"leads to {wanted}, but the kernel of this node is at {actual}")
    refuse_port_clashes(_ports(kernel, mapi))


def _ports(kernel: KernelConfig, mapi: MapiConfig | None) -> list[PortUse]:
    uses = [PortUse("tcp-port", kernel.listen_address, kernel.tcp_port)]
    if kernel.websocket_port is not None:
        uses.append(PortUse("websocket-port", kernel.listen_address, kernel.websocket_port))
    if kernel.metrics.port is not None:
        uses.append(PortUse("kernel.metrics-server-port", kernel.metrics.address, kernel.metrics.port))
    if mapi is not None and mapi.metrics.port is not None:
        uses.append(PortUse("mapi.metrics-server-port", mapi.metrics.address, mapi.metrics.port))
    named = {f"ipc-{name}": endpoint for name, endpoint in kernel.endpoints._asdict().items()}
    if mapi is not None:
        named |= {f"mapi.ipc-{name}": endpoint for name, endpoint in mapi.endpoints._asdict().items()}
    for key, endpoint in named.items():
        if endpoint.startswith("tcp://"):
            host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
            address = host.strip("[]").replace("localhost", "127.0.0.1")
            uses.append(PortUse(key, address, int(port)))
    return uses
