"""Requests and replies of the control sockets, the same for kernel and Messaging API (SPEC.md, "Control")."""

from __future__ import annotations

from typing import Annotated, Final

from ipc_schema.body import AnyNumber, Body, Empty, Method, Size, Uint

__all__ = [
    "HEALTH",
    "LOG_LEVEL",
    "METHODS",
    "METRICS",
    "SHUTDOWN",
    "ControlHealthReply",
    "HealthRequest",
    "LogLevelReply",
    "LogLevelRequest",
    "MetricsReply",
]

HEALTH: Final = "health"
SHUTDOWN: Final = "shutdown"
LOG_LEVEL: Final = "log_level"
METRICS: Final = "metrics"


class HealthRequest(Body):
    """`detail`: what the process consists of, too (the kernel has it)."""

    detail: bool = False


class ControlHealthReply(Body):
    """The common part of both servers' health. Each may add keys of its own; read those from the body."""

    ready: bool
    state: str
    version: str
    pid: Uint
    uptime_ms: Uint


class LogLevelRequest(Body):
    """Set the level of a logger; None: of all."""

    level: Annotated[str, Size(16, 1)]
    logger: Annotated[str, Size(256)] | None = None


class LogLevelReply(Body):
    """The previous level."""

    previous: str


class MetricsReply(Body):
    """Every counter and gauge: (name, labels, value), names without prefix.

    `families` maps a name to its kind (counter, gauge, histogram) and its help text.
    """

    samples: tuple[tuple[str, dict[str, str], AnyNumber], ...]
    families: dict[str, tuple[str, str]]


METHODS: Final[dict[str, Method]] = {
    HEALTH: Method(HealthRequest, ControlHealthReply),
    SHUTDOWN: Method(Empty, Empty),
    LOG_LEVEL: Method(LogLevelRequest, LogLevelReply),
    METRICS: Method(Empty, MetricsReply),
}
