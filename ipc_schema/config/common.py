"""Options shared by the processes, and how a list of options is described."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar

from ipc_schema.config.kinds import BOOLEAN, ENDPOINT, LOG_FORMAT, LOG_LEVEL, PATH, Kind, integer
from ipc_schema.config.options import Option, OptionSection, PortUse, Resolved, Schema, option
from ipc_schema.config.presets import PRESETS, parse_preset_name
from ipc_schema.paths import (
    KernelEndpoints,
    MapiEndpoints,
    SocketPathError,
    kernel_endpoints,
    mapi_endpoints,
    run_directory,
)


def _parse_group(raw: object) -> str:
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError(f"{raw!r} is neither the name nor the number of a group")
    return text


GROUP: Final = Kind("group", _parse_group)
PRESET: Final = Kind("network", parse_preset_name)


def preset_option() -> Any:
    """Declare the option `preset`."""
    return option(
        PRESET,
        f"the network to join: {', '.join(PRESETS)}; empty for a local network of one's own",
        default="",
        unset="",
    )


def ports_shift_option() -> Any:
    """Declare the option `ports-shift`."""
    return option(integer(0, 65535), "added to every port but 0, for several nodes on one host", default=0)


@dataclass(frozen=True, kw_only=True)
class BaseProcessOptions(OptionSection):
    """Options of every process."""

    TITLE: ClassVar[str] = "The process"

    data_dir: str = option(
        PATH,
        "directory of everything that must survive a restart",
        default="./data",
        aliases=("local-storage-path",),
    )
    log_level: str = option(LOG_LEVEL, "TRACE, DEBUG, INFO, NOTICE, WARN, ERROR or FATAL", default="INFO")
    log_format: str = option(
        LOG_FORMAT, "TEXT (human-readable) or JSON (one object per line)", default="TEXT"
    )
    ipc_dir: str | None = option(
        PATH,
        "directory of the ZeroMQ sockets, below which each process has its own private one",
        unset="<data-dir>/run",
    )


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(BaseProcessOptions):
    """Options of a process that owns ZeroMQ sockets."""

    ipc_group: str | None = option(
        GROUP,
        "group that may reach the sockets: their directory becomes 0750, the sockets 0770",
        unset="none: only this user reaches the sockets",
    )
    allowed_uid: tuple[int, ...] = option(
        integer(0, 0xFFFF_FFFE, "uid"),
        "further uid that may connect over ipc; all others are refused, on the events socket too",
        repeatable=True,
        unset="only the uid this process runs under",
    )
    ipc_max_in_flight: int = option(
        integer(1, 65536),
        "requests in flight per consumer; more are answered busy",
        default=256,
    )


@dataclass(frozen=True, kw_only=True)
class AttachOptions(OptionSection):
    """Location of the kernel whose client a process is."""

    TITLE: ClassVar[str] = "The kernel"

    kernel_dir: str | None = option(PATH, "ipc-dir of the kernel", unset="the same as ipc-dir")
    kernel_requests: str | None = option(
        ENDPOINT,
        "endpoint of the kernel's requests; its hello says where the events are",
        unset="ipc://<kernel-dir>/kernel/requests",
    )
    kernel_control: str | None = option(
        ENDPOINT, "endpoint of the kernel's control", unset="ipc://<kernel-dir>/kernel/control"
    )


@dataclass(frozen=True, kw_only=True)
class ServedNodeOptions(AttachOptions):
    """Location of the kernel and the Messaging API whose client a process is."""

    TITLE: ClassVar[str] = "The node"

    mapi_dir: str | None = option(PATH, "ipc-dir of the Messaging API", unset="the same as ipc-dir")
    mapi_apps: str | None = option(
        ENDPOINT, "endpoint of the Messaging API for apps", unset="ipc://<mapi-dir>/mapi/apps"
    )
    mapi_control: str | None = option(
        ENDPOINT, "endpoint of the Messaging API's control", unset="ipc://<mapi-dir>/mapi/control"
    )
    mapi: bool = option(BOOLEAN, "there is a Messaging API beside the kernel", default=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """Typed configuration shared by all processes."""

    data_dir: str
    log_level: str
    """A key of `kinds.LOG_LEVELS`, which has the number for `logging`."""
    log_format: str
    """`TEXT` or `JSON`."""
    ipc_dir: str
    """Directory above the processes' private socket directories."""
    warnings: tuple[str, ...]
    """Warnings to log once at start: overridden presets, options without effect."""
    resolved: Resolved[Any] = field(repr=False, compare=False)

    def describe(self) -> list[dict[str, Any]]:
        """Return all options with their values and sources (`node.config`)."""
        return describe(self.resolved.schema, self.resolved)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonConfig(BaseConfig):
    """Typed configuration shared by kernel and Messaging API."""

    ipc_group: str | None
    allowed_uids: tuple[int, ...]
    max_in_flight: int


def base_config(
    resolved: Resolved[Any], options: BaseProcessOptions, warnings: Iterable[str]
) -> dict[str, Any]:
    """Build the fields of `BaseConfig`."""
    foreign = (f"no option, ignored: {', '.join(resolved.ignored)}",) if resolved.ignored else ()
    return {
        "data_dir": options.data_dir,
        "log_level": options.log_level,
        "log_format": options.log_format,
        "ipc_dir": str(run_directory(options.data_dir, options.ipc_dir)),
        "warnings": (*foreign, *warnings),
        "resolved": resolved,
    }


def common_config(
    resolved: Resolved[Any], options: ProcessOptions, warnings: Iterable[str]
) -> dict[str, Any]:
    """Build the fields of `CommonConfig`."""
    return {
        **base_config(resolved, options, warnings),
        "ipc_group": options.ipc_group,
        "allowed_uids": options.allowed_uid,
        "max_in_flight": options.ipc_max_in_flight,
    }


_E = TypeVar("_E", KernelEndpoints, MapiEndpoints)


def endpoints(
    resolved: Resolved[Any],
    below: Callable[[str], _E],
    directory: tuple[str, str],
    options: Mapping[str, str],
) -> _E:
    """Return the endpoints below a run directory (option that names it, path), except those with an option of
    their own (`options`: field -> option).

    Raises `ConfigError` for a socket path that is too long, or two options with one endpoint.
    """
    key, run_dir = directory
    values = {part: resolved.value(name) for part, name in options.items()}
    given = {part: str(value) for part, value in values.items() if value is not None}
    taken: dict[str, str] = {}
    for part, endpoint in given.items():
        name = options[part]
        if taken.setdefault(endpoint, name) != name:
            raise resolved.refuse(name, f"{endpoint} is already taken by {taken[endpoint]}")
    try:
        return below(run_dir)._replace(**given)
    except SocketPathError as error:
        raise resolved.refuse(key, str(error)) from None


def served_kernel(resolved: Resolved[Any], node: AttachOptions, run_dir: str) -> KernelEndpoints:
    """Return the endpoints of the kernel whose client a process is. Raises `ConfigError`."""
    names = {"requests": "kernel-requests", "control": "kernel-control"}
    return endpoints(resolved, kernel_endpoints, ("kernel-dir", node.kernel_dir or run_dir), names)


def served_mapi(resolved: Resolved[Any], node: ServedNodeOptions, run_dir: str) -> MapiEndpoints | None:
    """Return the endpoints of the Messaging API whose client a process is, None without one. Raises
    `ConfigError`."""
    if not node.mapi:
        return None
    names = {"apps": "mapi-apps", "control": "mapi-control"}
    return endpoints(resolved, mapi_endpoints, ("mapi-dir", node.mapi_dir or run_dir), names)


def check_pair(resolved: Resolved[Any], certificate: str, key: str) -> None:
    """Refuse one of two options for a certificate and its key without the other. Raises `ConfigError`."""
    present = [name for name in (certificate, key) if resolved.value(name) is not None]
    if len(present) == 1:
        raise resolved.refuse(present[0], "certificate and key are needed together")


def shifted(resolved: Resolved[Any], key: str, port: int, shift: int) -> int:
    """Return the port of an option plus `ports-shift`; 0 stays 0. Raises `ConfigError`."""
    moved = port + shift if port else 0
    if moved > 65535:
        raise resolved.refuse("ports-shift", f"moves {key} {port} to {moved}, above 65535")
    return moved


def tcp_uses(endpoints: Mapping[str, object]) -> list[PortUse]:
    """Return the ports of those endpoints, by option, that are of tcp://."""
    uses: list[PortUse] = []
    for name, endpoint in endpoints.items():
        if str(endpoint).startswith("tcp://"):
            host, _, port = str(endpoint).removeprefix("tcp://").rpartition(":")
            uses.append(PortUse(name, host.strip("[]").replace("localhost", "127.0.0.1"), int(port)))
    return uses


MOVED_TO_GATEWAY: Final = dict.fromkeys(
    ("metrics-server", "metrics-server-address", "metrics-server-port", "metrics-prefix"),
    "an option of the gateway, the process that serves HTTP: set it in [gateway]",
)
"""Options of kernel and Messaging API in version 0.1."""

_HIDDEN: Final = "(set, not shown)"


def _shown(option: Option, value: Any) -> Any:
    if option.repeatable:
        return [option.kind.show(item) for item in value or ()]
    return None if value is None else option.kind.show(value)


def describe(schema: Schema[Any], resolved: Resolved[Any] | None = None) -> list[dict[str, Any]]:
    """Return the options as plain data: name, type, default, doc; with `resolved` also value, origin,
    detail.

    Contains only text, numbers, booleans, None and lists of those. Secrets are hidden.
    """
    rows: list[dict[str, Any]] = []
    for one in schema:
        row: dict[str, Any] = {
            "name": one.name,
            "type": f"list of {one.kind.name}" if one.repeatable else one.kind.name,
            "default": _shown(one, one.default),
            "doc": f"{one.doc} (unset: {one.unset})" if one.unset else one.doc,
        }
        if resolved is not None:
            value, origin, detail = resolved.source_of(one.name)
            hidden = one.secret and value is not None
            row |= {
                "value": _HIDDEN if hidden else _shown(one, value),
                "origin": str(origin),
                "detail": detail,
            }
        rows.append(row)
    return rows


def without_effect(resolved: Resolved[Any], names: Iterable[str], because: str) -> list[str]:
    """Return a warning for each explicitly set option that has no effect given the others."""
    return [f"{name} has no effect: {because}" for name in names if resolved.explicit(name)]
