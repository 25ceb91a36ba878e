"""Options of the metrics that a process serves over HTTP; both processes have them, each its own port."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ipc_schema.config import common
from ipc_schema.config.kinds import IP_ADDRESS, PORT, Kind
from ipc_schema.config.options import Option, Resolved

__all__ = ["MetricsConfig", "metrics_config", "metrics_options", "metrics_warnings"]


def _parse_prefix(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]{0,63})?", raw):
        raise ValueError(f"{raw!r} cannot begin the name of a metric: letters, digits and _ are possible")
    return raw


PREFIX: Final = Kind("prefix", _parse_prefix)


def metrics_options(port: int) -> tuple[Option, ...]:
    """The options of a process whose usual port this is."""
    return (
        common.switch(
            "metrics-server", False, "serve /metrics (for Prometheus), /health and /ready over HTTP"
        ),
        Option(
            name="metrics-server-address",
            kind=IP_ADDRESS,
            default="127.0.0.1",
            doc="address of that server; who reaches it can read everything there, and nothing else",
        ),
        Option(
            name="metrics-server-port", kind=PORT, default=port, doc="TCP port of that server; 0: automatic"
        ),
        Option(
            name="metrics-prefix",
            kind=PREFIX,
            default="logos_delivery_",
            doc="what the names of metrics begin with; waku_ for dashboards made for older nwaku",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where and under which names metrics are served."""

    prefix: str
    address: str
    port: int | None
    """None: not served; 0: automatic."""


def metrics_config(resolved: Resolved, port: int) -> MetricsConfig:
    """The metrics part of a resolved configuration; `port` is the one configured, shifted."""
    return MetricsConfig(
        prefix=resolved["metrics-prefix"],
        address=resolved["metrics-server-address"],
        port=port if resolved["metrics-server"] else None,
    )


def metrics_warnings(resolved: Resolved) -> Iterable[str]:
    """What an operator should read once at start."""
    if not resolved["metrics-server"]:
        yield from common.without_effect(
            resolved, ("metrics-server-address", "metrics-server-port"), "metrics-server is off"
        )
