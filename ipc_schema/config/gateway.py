"""Options and typed configuration of the gateway, the one process of a node that serves HTTP.

The names are those that operators of nwaku know (`rest`, `rest-port`, `metrics-server`, …). The gateway is a
client of a kernel and, if there is one, of a Messaging API; it has no part in the network itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import ClassVar, Final

from ipc_schema.config import common
from ipc_schema.config.common import BaseProcessOptions, ServedNodeOptions
from ipc_schema.config.kinds import BOOLEAN, IP_ADDRESS, PATH, PORT, TEXT, Kind, integer
from ipc_schema.config.options import (
    Layer,
    OptionSection,
    PortUse,
    Resolved,
    Schema,
    option,
    refuse_port_clashes,
    resolve,
)
from ipc_schema.config.sources import load_config
from ipc_schema.paths import KernelEndpoints, MapiEndpoints


def _parse_prefix(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]{0,63})?", raw):
        raise ValueError(f"{raw!r} cannot begin the name of a metric: letters, digits and _ are possible")
    return raw


PREFIX: Final = Kind("prefix", _parse_prefix)


@dataclass(frozen=True, kw_only=True)
class RestOptions(OptionSection):
    """Options of the REST server and of access to it."""

    TITLE: ClassVar[str] = "REST"

    rest: bool = option(BOOLEAN, "serve the REST API, event streams and WebSockets over HTTP", default=False)
    rest_address: str = option(
        IP_ADDRESS,
        "address of the REST server; any other than loopback needs rest-token-file",
        default="127.0.0.1",
    )
    rest_port: int = option(PORT, "TCP port of the REST server; 0: automatic", default=8645)
    rest_admin: bool = option(BOOLEAN, "serve the /admin routes too", default=False)
    rest_allow_origin: tuple[str, ...] = option(
        TEXT,
        "origin whose pages may call the REST server from a browser, such as "
        "https://app.example; * and ? match as in file names",
        repeatable=True,
    )
    rest_host: tuple[str, ...] = option(
        TEXT,
        "name in Host by which the gateway may be called besides localhost and loopback addresses; without "
        "rest-token-file others are refused (421), against DNS rebinding",
        repeatable=True,
    )
    rest_relay_cache_capacity: int = option(
        integer(1, 100_000),
        "messages kept per topic for clients that poll; the oldest are dropped",
        default=50,
    )
    rest_token_file: str | None = option(
        PATH,
        "file of bearer tokens, one per line: <token> <scope>[,<scope>…]; scopes: apps, kernel, "
        "admin; readable by its owner only",
    )
    rest_tls_cert: str | None = option(PATH, "certificate chain in PEM, to serve HTTPS")
    rest_tls_key: str | None = option(PATH, "private key of rest-tls-cert in PEM")
    dashboard: bool = option(BOOLEAN, "serve a dashboard at /dashboard", default=False)


@dataclass(frozen=True, kw_only=True)
class MetricsOptions(OptionSection):
    """Options of the metrics server."""

    TITLE: ClassVar[str] = "Metrics"

    metrics_server: bool = option(
        BOOLEAN, "serve /metrics (for Prometheus), /health and /ready over HTTP", default=False
    )
    metrics_server_address: str = option(
        IP_ADDRESS,
        "address of the metrics server; any other than loopback needs rest-token-file",
        default="127.0.0.1",
    )
    metrics_server_port: int = option(PORT, "TCP port of the metrics server; 0: automatic", default=8008)
    metrics_prefix: str = option(
        PREFIX, "prefix of metric names; waku_ for dashboards made for older nwaku", default="logos_delivery_"
    )
    ports_shift: int = common.ports_shift_option()


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    """All options of a gateway, by section."""

    rest: RestOptions
    metrics: MetricsOptions
    node: ServedNodeOptions
    process: BaseProcessOptions


GATEWAY_SCHEMA: Final = Schema("gateway", GatewayOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """One HTTP listener. `port` is already shifted; 0: automatic."""

    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach it."""
        return ip_address(self.address).is_loopback


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig(common.BaseConfig):
    """Typed configuration of a gateway. A listener that is None is not served."""

    rest: HttpConfig | None
    """Listener of REST, streams and the dashboard."""
    options: RestOptions
    """Without `rest`, the listener serves only the dashboard and what it reads."""
    metrics: HttpConfig | None
    metrics_prefix: str
    kernel: KernelEndpoints
    mapi: MapiEndpoints | None
    """None: the node is a kernel alone."""
    resolved: Resolved[GatewayOptions] = field(repr=False, compare=False)


def gateway_config(layers: Iterable[Layer]) -> GatewayConfig:
    """Resolve the layers and check the options against each other. Raises `ConfigError`."""
    resolved = resolve(GATEWAY_SCHEMA, layers)
    options = resolved.options
    shared = common.base_config(resolved, options.process, _warnings(resolved))
    run_dir: str = shared["ipc_dir"]
    rest: HttpConfig | None = None
    metrics: HttpConfig | None = None
    if options.rest.rest or options.rest.dashboard:
        rest = _listener(resolved, "rest-port", options.rest.rest_address, options.rest.rest_port)
    if options.metrics.metrics_server:
        metrics = _listener(
            resolved,
            "metrics-server-port",
            options.metrics.metrics_server_address,
            options.metrics.metrics_server_port,
        )
    _check_exposure(resolved, {"rest-address": rest, "metrics-server-address": metrics})
    common.check_pair(resolved, "rest-tls-cert", "rest-tls-key")
    return GatewayConfig(
        **shared,
        rest=rest,
        options=options.rest,
        metrics=metrics,
        metrics_prefix=options.metrics.metrics_prefix,
        kernel=common.served_kernel(resolved, options.node, run_dir),
        mapi=common.served_mapi(resolved, options.node, run_dir),
    )


load_gateway_config: Final = partial(load_config, GATEWAY_SCHEMA, gateway_config)


def _listener(resolved: Resolved[GatewayOptions], key: str, address: str, port: int) -> HttpConfig:
    shift = resolved.options.metrics.ports_shift
    return HttpConfig(address=address, port=common.shifted(resolved, key, port, shift))


def _check_exposure(resolved: Resolved[GatewayOptions], listeners: Mapping[str, HttpConfig | None]) -> None:
    """Reject a listener that other hosts can reach without a token, and two listeners on one port."""
    for key, listener in listeners.items():
        if listener is not None and not listener.loopback and resolved.options.rest.rest_token_file is None:
            raise resolved.refuse(
                key,
                f"{listener.address} can be reached from other hosts: set rest-token-file, or use loopback",
            )
    refuse_port_clashes(
        PortUse(key.replace("-address", "-port"), listener.address, listener.port)
        for key, listener in listeners.items()
        if listener is not None
    )


def _warnings(resolved: Resolved[GatewayOptions]) -> Iterable[str]:
    """Return the warnings to log once at start."""
    if not resolved.options.rest.rest:
        names = ("rest-admin", "rest-allow-origin", "rest-relay-cache-capacity")
        yield from common.without_effect(resolved, names, "rest is off")
        if not resolved.options.rest.dashboard:
            yield from common.without_effect(
                resolved, ("rest-address", "rest-port", "rest-tls-cert", "rest-tls-key"), "rest is off"
            )
    if not resolved.options.metrics.metrics_server:
        yield from common.without_effect(
            resolved, ("metrics-server-address", "metrics-server-port"), "metrics-server is off"
        )
    exposed = resolved.options.rest.rest and not ip_address(resolved.options.rest.rest_address).is_loopback
    if exposed and resolved.options.rest.rest_tls_cert is None:
        yield "other hosts reach the REST server without TLS: tokens travel in the clear"
