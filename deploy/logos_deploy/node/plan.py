"""From the request for a node to the configuration of its processes. Pure: files are read by a callback.

`logos up` and `launch` plan alike. The processes read the same sources again (file, environment), so only
the options that were given explicitly, and what MAPI takes from the kernel, are passed on to them.
Everything is resolved here first: a configuration that a process would refuse is refused before anything is
started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ipc_schema.config.bridge import BridgeConfig, load_bridge_config
from ipc_schema.config.common import BaseConfig, tcp_uses, without_effect
from ipc_schema.config.gateway import GatewayConfig, load_gateway_config
from ipc_schema.config.kernel import KernelConfig, load_kernel_config
from ipc_schema.config.kinds import ALL
from ipc_schema.config.mapi import MapiConfig, Mode, load_mapi_config
from ipc_schema.config.options import PortUse, Resolved, refuse_port_clashes
from ipc_schema.config.sources import CONFIG_FILE, TomlFile, config_file_of, to_flags
from logos_deploy.node.overrides import NodeOverrides
from logos_deploy.node.processes import SCHEMAS

_TABLES: Final = tuple(SCHEMAS)
_DIRECTORIES: Final = ("data-dir", "ipc-dir", "kernel-dir")

ReadToml = Callable[[str], TomlFile]
"""Reads and parses a configuration file. Raises `ConfigError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRequest:
    """A command line's request. `overrides`: `key=value`, `kernel.key=value`, `mapi.key=value`."""

    preset: str | None = None
    mode: str | None = None
    kernel_only: bool = False
    data_dir: str | None = None
    config_file: str | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """A program's request. `overrides`: values by `key`, `kernel.key` or `mapi.key`."""

    preset: str = ""
    mode: Mode | str = Mode.CORE
    overrides: Mapping[str, object] = field(default_factory=dict)
    data_dir: str | Path | None = None
    config_file: str | Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node, checked."""

    data_dir: Path
    """Absolute."""
    kernel: KernelConfig
    mapi: MapiConfig | None
    """None: the kernel alone."""
    gateway: GatewayConfig | None
    """None: nothing of the node is served over HTTP."""
    bridge: BridgeConfig | None
    """None: the node has no NATS server."""
    options: Mapping[str, Mapping[str, object]]
    """Options passed to the processes besides environment and file: raw values by table (`kernel`, …)."""
    files: Mapping[str, str]
    """The configuration file of each table that has one."""
    derived: Mapping[tuple[str, str], str]
    """(table, option) of options that were not given → where their values come from."""
    idle: Sequence[str]
    """Warnings about options of a gateway or bridge that is not started, and so cannot log them."""

    @property
    def configs(self) -> dict[str, BaseConfig | None]:
        """The configuration of each process, in the order in which they start; None: it does not run."""
        return {"kernel": self.kernel, "mapi": self.mapi, "gateway": self.gateway, "bridge": self.bridge}

    @property
    def tables(self) -> tuple[str, ...]:
        """The processes that run, in the order in which they start."""
        return tuple(table for table, config in self.configs.items() if config is not None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the processes will warn of at start, and `idle`; each once."""
        logged = (warning for config in self.configs.values() if config for warning in config.warnings)
        return tuple(dict.fromkeys((*logged, *self.idle)))

    @property
    def ports(self) -> list[PortUse]:
        """The TCP ports that the node will listen on, without automatic ones."""
        return [use for use in _ports(self.kernel, self.mapi, self.gateway) if use.port]

    def arguments(self, table: str) -> tuple[str, ...]:
        named = [f"--{CONFIG_FILE}={self.files[table]}"] if table in self.files else []
        return (*named, *to_flags(SCHEMAS[table], self.options[table]))


@dataclass(frozen=True, slots=True)
class _Sources:
    """Environment, files and working directory, which the node's given options override."""

    environ: Mapping[str, str]
    files: Mapping[str, TomlFile | None]
    cwd: str | Path

    def kernel(self, flags: Mapping[str, object]) -> KernelConfig:
        return load_kernel_config(flags=flags, environ=self.environ, file=self.files["kernel"])

    def mapi(self, flags: Mapping[str, object]) -> MapiConfig:
        return load_mapi_config(flags=flags, environ=self.environ, file=self.files["mapi"])

    def gateway(self, flags: Mapping[str, object]) -> GatewayConfig:
        return load_gateway_config(flags=flags, environ=self.environ, file=self.files["gateway"])

    def bridge(self, flags: Mapping[str, object]) -> BridgeConfig:
        return load_bridge_config(flags=flags, environ=self.environ, file=self.files["bridge"])


def plan_node(
    request: NodeRequest, environ: Mapping[str, str], read_toml: ReadToml, cwd: str | Path
) -> NodePlan:
    """Resolve the whole configuration of a node. Raises `ConfigError` naming the key."""
    tables = ("kernel", "gateway", "bridge") if request.kernel_only else _TABLES
    options = NodeOverrides(tables, visible=True)
    for key, value in (("preset", request.preset), ("data-dir", request.data_dir), ("mode", request.mode)):
        if value is not None:
            options.add(key, value)
    options.add_words(request.overrides)
    files = _files(tables, request.config_file, environ, read_toml, cwd)
    return _plan(options, _Sources(environ, files, cwd), tables)


def plan_launch(request: LaunchRequest, read_toml: ReadToml, cwd: str | Path) -> NodePlan:
    """Resolve it for a program that runs its own node.

    The environment is ignored, and options may include secrets, since they do not travel on a command line.
    """
    tables = _TABLES
    options = NodeOverrides(tables, visible=False)
    options.add("preset", request.preset)
    options.add("mode", request.mode.lower())
    if request.data_dir is not None:
        options.add("data-dir", str(request.data_dir))
    for key, value in request.overrides.items():
        options.add(key, str(value) if isinstance(value, Path) else value)
    file = None if request.config_file is None else str(request.config_file)
    return _plan(options, _Sources({}, _files(tables, file, {}, read_toml, cwd), cwd), tables)


def _files(
    tables: Sequence[str],
    named: str | None,
    environ: Mapping[str, str],
    read_toml: ReadToml,
    cwd: str | Path,
) -> dict[str, TomlFile | None]:
    paths = {table: config_file_of(SCHEMAS[table], {CONFIG_FILE: named}, environ) for table in tables}
    return {table: read_toml(str(Path(cwd, path))) if path else None for table, path in paths.items()}


def _plan(options: NodeOverrides, sources: _Sources, tables: Sequence[str]) -> NodePlan:
    planner = _Planner(options, sources)
    kernel = planner.kernel(with_mapi="mapi" in tables)
    mapi = planner.mapi(kernel) if "mapi" in tables else None
    gateway = planner.gateway(kernel, mapi)
    bridge = planner.bridge(kernel, mapi)
    if mapi is not None:
        _check_together(kernel, mapi)
    refuse_port_clashes(_ports(kernel, mapi, gateway))
    return NodePlan(
        data_dir=Path(kernel.data_dir),
        kernel=kernel,
        mapi=mapi,
        gateway=gateway,
        bridge=bridge,
        options={table: options.of[table] for table in tables},
        files={table: file.path for table, file in sources.files.items() if file is not None},
        derived=planner.derived,
        idle=planner.idle,
    )


class _Planner:
    """Plans the processes one after another: MAPI takes from the kernel, their clients from both."""

    def __init__(self, options: NodeOverrides, sources: _Sources) -> None:
        self._flags = options.of
        self._sources = sources
        self.derived: dict[tuple[str, str], str] = {}
        self.idle: list[str] = []

    def kernel(self, *, with_mapi: bool) -> KernelConfig:
        flags, sources = self._flags["kernel"], self._sources
        kernel = sources.kernel(flags)
        edge = with_mapi and sources.mapi(self._flags["mapi"]).mode is Mode.EDGE
        if edge and not kernel.resolved.explicit("relay"):
            self._derive("kernel", "relay", "false", "mode edge")
        self._make_absolute("kernel", ("data-dir", "ipc-dir"), kernel.resolved)
        if "data-dir" not in flags:
            source = kernel.resolved.source_of("data-dir").source()
            self._derive("kernel", "data-dir", _absolute(sources.cwd, kernel.data_dir), source)
        kernel = sources.kernel(flags)
        if _joins_all_shards(kernel):
            self._derive("kernel", "shard", (ALL,), "a node that relays")
            kernel = sources.kernel(flags)
        return kernel

    def mapi(self, kernel: KernelConfig) -> MapiConfig:
        flags = self._flags["mapi"]
        bare = self._sources.mapi(flags).resolved
        taken = _taken_from(kernel)
        if kernel.network.preset:
            taken["preset"] = kernel.network.preset
        self._take("mapi", taken, bare, "the kernel beside it")
        self._make_absolute("mapi", _DIRECTORIES, bare)
        return self._sources.mapi(flags)

    def gateway(self, kernel: KernelConfig, mapi: MapiConfig | None) -> GatewayConfig | None:
        flags = self._flags["gateway"]
        bare = self._sources.gateway(flags)
        if bare.rest is None and bare.metrics is None:
            self.idle += bare.warnings
            return None
        self._join(
            "gateway", ("rest-token-file", "rest-tls-cert", "rest-tls-key"), bare.resolved, kernel, mapi
        )
        return self._sources.gateway(flags)

    def bridge(self, kernel: KernelConfig, mapi: MapiConfig | None) -> BridgeConfig | None:
        flags = self._flags["bridge"]
        bare = self._sources.bridge(flags)
        if not bare.nats.nats_url:
            own = [one.name for one in SCHEMAS["bridge"] if one.name.startswith(("nats-", "bridge-"))]
            self.idle += without_effect(bare.resolved, own, "nats-url is not set")
            return None
        paths = ("nats-credentials", "nats-nkey-seed", "nats-tls-ca", "nats-tls-cert", "nats-tls-key")
        self._join("bridge", paths, bare.resolved, kernel, mapi)
        bridge = self._sources.bridge(flags)
        if bridge.outward.bridge_out and not kernel.peers.relay:
            raise bridge.resolved.refuse(
                "bridge-out", "needs a node that relays: set it to false, or use mode core"
            )
        return bridge

    def _derive(self, table: str, name: str, value: object, source: str) -> None:
        self._flags[table][name] = value
        self.derived[table, name] = source

    def _take(self, table: str, taken: Mapping[str, object], resolved: Resolved[Any], source: str) -> None:
        for name, value in taken.items():
            if not resolved.explicit(name):
                self._derive(table, name, value, source)

    def _join(
        self,
        table: str,
        paths: Sequence[str],
        resolved: Resolved[Any],
        kernel: KernelConfig,
        mapi: MapiConfig | None,
    ) -> None:
        """Tell a gateway or bridge where kernel and MAPI are, unless it is configured otherwise."""
        taken = _taken_from(kernel)
        if mapi is None:
            taken["mapi"] = "false"
        else:
            taken["mapi-dir"] = mapi.ipc_dir
            taken |= _explicit_endpoints("mapi", ("apps", "control"), mapi.resolved)
        self._take(table, taken, resolved, "the processes beside it")
        self._make_absolute(table, (*_DIRECTORIES, "mapi-dir", *paths), resolved)

    def _make_absolute(self, table: str, names: Sequence[str], resolved: Resolved[Any]) -> None:
        """Make paths absolute, so that the processes mean the same directories whatever their working
        directory."""
        flags = self._flags[table]
        for name in names:
            if resolved.explicit(name):
                if name not in flags:
                    self.derived[table, name] = resolved.source_of(name).source()
                flags[name] = _absolute(self._sources.cwd, str(resolved.value(name)))


def _joins_all_shards(kernel: KernelConfig) -> bool:
    """Return whether a whole node joins every shard of its network, because it relays and names none."""
    return kernel.peers.relay and kernel.network.shard_count > 0 and not kernel.resolved.explicit("shard")


def _absolute(cwd: str | Path, path: str) -> str:
    return os.path.abspath(os.path.join(cwd, path))  # noqa: PTH100, PTH118 - pure


def _taken_from(kernel: KernelConfig) -> dict[str, object]:
    """Return what a process takes from the kernel beside it, unless configured otherwise."""
    taken: dict[str, object] = {"data-dir": kernel.data_dir}
    if kernel.resolved.explicit("ipc-dir"):
        taken["ipc-dir"] = kernel.ipc_dir
    taken["kernel-dir"] = kernel.ipc_dir
    return taken | _explicit_endpoints("kernel", ("requests", "control"), kernel.resolved)


def _explicit_endpoints(server: str, names: Sequence[str], resolved: Resolved[Any]) -> dict[str, object]:
    """Return the endpoints configured for a server, as the options of its clients."""
    own = {name: f"ipc-{name}" for name in names}
    return {f"{server}-{name}": resolved.value(key) for name, key in own.items() if resolved.explicit(key)}


def _check_together(kernel: KernelConfig, mapi: MapiConfig) -> None:
    """Check what only the two configurations together can get wrong."""
    if kernel.peers.relay is (mapi.mode is Mode.EDGE):
        wanted = "off" if kernel.peers.relay else "on"
        raise kernel.resolved.refuse(
            "relay", f"must be {wanted}: the mode is {mapi.mode}; or give --kernel-only"
        )
    mapi.check_network(kernel.network)
    for name in ("requests", "control"):
        wanted, actual = getattr(mapi.kernel, name), getattr(kernel.endpoints, name)
        if wanted != actual:
            key = f"kernel-{name}" if mapi.resolved.explicit(f"kernel-{name}") else "kernel-dir"
            raise mapi.resolved.refuse(key, f"leads to {wanted}, but the kernel of this node is at {actual}")


def _ports(kernel: KernelConfig, mapi: MapiConfig | None, gateway: GatewayConfig | None) -> list[PortUse]:
    uses = [PortUse("tcp-port", kernel.listen_address, kernel.tcp_port)]
    if kernel.websocket_port is not None:
        uses.append(PortUse("websocket-port", kernel.listen_address, kernel.websocket_port))
    if gateway is not None and gateway.rest is not None:
        uses.append(PortUse("rest-port", gateway.rest.address, gateway.rest.port))
    if gateway is not None and gateway.metrics is not None:
        uses.append(PortUse("metrics-server-port", gateway.metrics.address, gateway.metrics.port))
    named = {f"ipc-{name}": endpoint for name, endpoint in kernel.endpoints._asdict().items()}
    if mapi is not None:
        named |= {f"mapi.ipc-{name}": endpoint for name, endpoint in mapi.endpoints._asdict().items()}
    return [*uses, *tcp_uses(named)]
