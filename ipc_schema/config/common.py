"""The options that both processes have, and how a list of options is described."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ipc_schema.config.kinds import (
    BOOLEAN,
    LOG_FORMAT,
    LOG_LEVEL,
    PATH,
    Kind,
    choice,
    integer,
)
from ipc_schema.config.options import Option, PortUse, Resolved, Schema
from ipc_schema.config.presets import PRESETS, parse_preset_name
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, SocketPathError, run_directory

__all__ = ["COMMON_OPTIONS", "CommonConfig", "common_config", "describe"]


def _parse_group(raw: object) -> str:
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else raw
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError(f"{raw!r} is neither the name nor the number of a group")
    return text


GROUP: Final = Kind("group", _parse_group)
PRESET: Final = Kind("network", parse_preset_name)

PRESET_OPTION: Final = Option(
    name="preset",
    kind=PRESET,
    default="",
    unset="",
    doc=f"the network to join: {', '.join(PRESETS)}; empty for a local network of one's own",
)

PORTS_SHIFT: Final = Option(
    name="ports-shift",
    kind=integer(0, 65535),
    default=0,
    doc="added to every port but 0, for several nodes on one host",
)

COMMON_OPTIONS: Final = (
    Option(
        name="data-dir",
        aliases=("local-storage-path",),
        kind=PATH,
        default="./data",
        doc="directory of everything that must survive a restart",
    ),
    Option(
        name="log-level",
        kind=LOG_LEVEL,
        default="INFO",
        doc="TRACE, DEBUG, INFO, NOTICE, WARN, ERROR or FATAL",
    ),
    Option(name="log-format", kind=LOG_FORMAT, default="TEXT", doc="TEXT for people, JSON for machines"),
    Option(
        name="ipc-dir",
        kind=PATH,
        unset="<data-dir>/run",
        doc="directory of the ZeroMQ sockets, below which each process has its own private one",
    ),
    Option(
        name="ipc-group",
        kind=GROUP,
        unset="none: only this user reaches the sockets",
        doc="group that may reach the sockets: their directory becomes 0750, the sockets 0770",
    ),
    Option(
        name="allowed-uid",
        kind=integer(0, 0xFFFF_FFFE, "uid"),
        repeatable=True,
        unset="only the uid this process runs under",
        doc="further uid that may connect over ipc: others are turned away at once, also from the events",
    ),
    Option(
        name="ipc-max-in-flight",
        kind=integer(1, 65536),
        default=256,
        doc="requests of one consumer being worked on at once; more are answered busy",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonConfig:
    """What both processes are told."""

    data_dir: str
    log_level: str
    """A key of `kinds.LOG_LEVELS`, which has the number for `logging`."""
    log_format: str
    """`TEXT` or `JSON`."""
    ipc_dir: str
    """Directory above the processes' private socket directories."""
    ipc_group: str | None
    allowed_uids: tuple[int, ...]
    max_in_flight: int
    warnings: tuple[str, ...]
    """What an operator should read once at start: overridden presets, options without effect."""


def common_config(resolved: Resolved, warnings: Iterable[str]) -> dict[str, Any]:
    """The fields of `CommonConfig`."""
    data_dir: str = resolved["data-dir"]
    foreign = (f"no option, ignored: {', '.join(resolved.ignored)}",) if resolved.ignored else ()
    return {
        "data_dir": data_dir,
        "log_level": resolved["log-level"],
        "log_format": resolved["log-format"],
        "ipc_dir": str(run_directory(data_dir, resolved["ipc-dir"])),
        "ipc_group": resolved["ipc-group"],
        "allowed_uids": resolved["allowed-uid"],
        "max_in_flight": resolved["ipc-max-in-flight"],
        "warnings": (*foreign, *warnings),
    }


_E = TypeVar("_E", KernelEndpoints, MapiEndpoints)


def endpoints(
    resolved: Resolved, below: Callable[[str], _E], directory: tuple[str, str], options: Mapping[str, str]
) -> _E:
    """The endpoints below a run directory (option that names it, path), but for those that an option of
    their own configures (`options`: field -> option).

    Raises `ConfigError`: a socket path too long, or two options with one endpoint.
    """
    key, run_dir = directory
    given = {field: resolved[name] for field, name in options.items() if resolved[name] is not None}
    taken: dict[str, str] = {}
    for field, endpoint in given.items():
        name = options[field]
        if taken.setdefault(endpoint, name) != name:
            raise resolved.refuse(name, f"{endpoint} is already taken by {taken[endpoint]}")
    try:
        return below(run_dir)._replace(**given)
    except SocketPathError as error:
        raise resolved.refuse(key, str(error)) from None


def shifted(resolved: Resolved, key: str) -> int:
    """The port of an option with `ports-shift` added; 0 stays 0. Raises `ConfigError`."""
    port: int = resolved[key]
    moved: int = port + resolved["ports-shift"] if port else 0
    if moved > 65535:
        raise resolved.refuse("ports-shift", f"moves {key} {port} to {moved}, above 65535")
    return moved


def tcp_uses(resolved: Resolved, names: Iterable[str]) -> list[PortUse]:
    """The ports of those options that have a tcp:// endpoint for their value."""
    uses: list[PortUse] = []
    for name in names:
        endpoint: str | None = resolved[name]
        if endpoint is not None and endpoint.startswith("tcp://"):
            host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
            uses.append(PortUse(name, host.strip("[]").replace("localhost", "127.0.0.1"), int(port)))
    return uses


_HIDDEN: Final = "(set, not shown)"


def _shown(option: Option, value: Any) -> Any:
    if option.repeatable:
        return [option.kind.show(item) for item in value or ()]
    return None if value is None else option.kind.show(value)


def describe(schema: Schema, resolved: Resolved | None = None) -> list[dict[str, Any]]:
    """The options as plain data: name, type, default, doc; with `resolved` also value, origin, detail.

    Everything in it is text, number, boolean, None or a list of those. Secrets are not shown.
    """
    rows: list[dict[str, Any]] = []
    for option in schema:
        row: dict[str, Any] = {
            "name": option.name,
            "type": f"list of {option.kind.name}" if option.repeatable else option.kind.name,
            "default": _shown(option, option.default),
            "doc": f"{option.doc} (unset: {option.unset})" if option.unset else option.doc,
        }
        if resolved is not None:
            value, origin, detail = resolved.source_of(option.name)
            hidden = option.secret and value is not None
            row |= {
                "value": _HIDDEN if hidden else _shown(option, value),
                "origin": str(origin),
                "detail": detail,
            }
        rows.append(row)
    return rows


def without_effect(resolved: Resolved, names: Iterable[str], because: str) -> list[str]:
    """A warning for each option that a person set although nothing comes of it as the others stand."""
    return [f"{name} has no effect: {because}" for name in names if resolved.explicit(name)]


def switch(name: str, default: bool, doc: str) -> Option:
    """A boolean option."""
    return Option(name=name, kind=BOOLEAN, default=default, doc=doc)


def one_of(name: str, words: tuple[str, ...], default: str, doc: str) -> Option:
    """An option that takes one of some words."""
    return Option(name=name, kind=choice(" or ".join(words), words), default=default, doc=doc)
