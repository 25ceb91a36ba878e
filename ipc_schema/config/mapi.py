"""The Messaging API's options, its typed configuration, and the kernel it derives from them.

Only here is there a `mode`. Two ways lead to a running node:

- MAPI builds its kernel: `derive_kernel` and `derive_mapi` divide (preset, mode, overrides) between the two
  processes.
- MAPI is attached to a kernel that runs already: the network is what the kernel's hello says. What was
  configured here about the network (`preset`, `cluster-id`, `num-shards-in-network`, `max-msg-size`) is then
  an expectation, and `MapiConfig.check_network` refuses a kernel that does not meet it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from ipc_schema.config import common
from ipc_schema.config.kernel import KERNEL_SCHEMA, MIB, NETWORK_OPTIONS, load_kernel_config
from ipc_schema.config.kinds import (
    BOOLEAN,
    ENDPOINT,
    PATH,
    Kind,
    duration,
    format_duration,
    integer,
    parse_duration,
    size,
)
from ipc_schema.config.metrics import MetricsConfig, metrics_config, metrics_options, metrics_warnings
from ipc_schema.config.options import (
    ConfigError,
    Layer,
    Option,
    PortUse,
    Resolved,
    Schema,
    Section,
    refuse_port_clashes,
    resolve,
)
from ipc_schema.config.presets import find_preset
from ipc_schema.config.ratelimits import RateLimit, RateLimitSetting, parse_rate_limit
from ipc_schema.config.sources import TomlFile, explicit_layers
from ipc_schema.hello import NetworkInfo
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, kernel_endpoints, mapi_endpoints

__all__ = [
    "MAPI_SCHEMA",
    "MapiConfig",
    "Mode",
    "derive_kernel",
    "derive_mapi",
    "load_mapi_config",
    "mapi_config",
]

_DAY: Final = 86400.0


class Mode(StrEnum):
    """How the node takes part: `core` relays, `edge` leaves that to others and asks them by protocol."""

    CORE = "core"
    EDGE = "edge"


def _send_rate(raw: object) -> RateLimitSetting:
    setting = parse_rate_limit(raw)
    if setting.protocol is not None:
        raise ValueError(f"{raw!r} names a protocol: only <volume>/<period><h|m|s|ms> is possible here")
    return setting


def _catch_up(raw: object) -> str | float:
    if isinstance(raw, str) and raw.strip().lower() in ("on-gap", "never"):
        return raw.strip().lower()
    seconds = parse_duration(raw)
    if seconds < _LEAST_PERIOD:
        raise ValueError(f"{raw!r}: at least {_LEAST_PERIOD:g}s lie between two rounds")
    return seconds


_LEAST_PERIOD: Final = 10.0
CATCH_UP: Final = Kind(
    "on-gap, never or a duration",
    _catch_up,
    lambda value: value if isinstance(value, str) else format_duration(value),
)
SEND_RATE: Final = Kind("messages per time", _send_rate, lambda setting: str(setting.text))

MAPI_SCHEMA: Final = Schema(
    "mapi",
    Section(
        "The node",
        (
            common.one_of("mode", tuple(Mode), Mode.CORE, "how the node takes part in the network"),
            common.PRESET_OPTION,
            # What the kernel must be on; nothing is expected of what is not set.
            *(
                replace(option, default=None, doc=f"expected of the kernel: {option.doc}")
                for option in NETWORK_OPTIONS
            ),
        ),
    ),
    Section(
        "The kernel",
        (
            Option(
                name="kernel-dir",
                kind=PATH,
                unset="the same as ipc-dir",
                doc="ipc-dir of the kernel to attach to",
            ),
            Option(
                name="kernel-requests",
                kind=ENDPOINT,
                unset="ipc://<kernel-dir>/kernel/requests",
                doc="endpoint of the kernel's requests; its hello says where the events are",
            ),
            Option(
                name="kernel-control",
                kind=ENDPOINT,
                unset="ipc://<kernel-dir>/kernel/control",
                doc="endpoint of the kernel's control",
            ),
        ),
    ),
    Section(
        "Messages",
        (
            common.switch(
                "auto-subscribe", True, "subscribe an app to a content topic when it first sends on it"
            ),
            Option(
                name="send-window",
                kind=duration(1.0, _DAY),
                default=60.0,
                doc="time in which a message must reach the network before it is given up",
            ),
            Option(
                name="reliability",
                kind=BOOLEAN,
                unset="what the preset says, true without one",
                doc="have sends confirmed by stores, and published again when those lack them",
            ),
            Option(
                name="catch-up",
                kind=CATCH_UP,
                default="on-gap",
                doc="when stores are asked for what may have been missed: on-gap, never, or also every "
                "10m, say",
            ),
            Option(
                name="send-rate-limit",
                kind=SEND_RATE,
                unset="no limit",
                doc="messages per time that are sent, in order, such as 100/10m; more wait for the next "
                "epoch",
            ),
            Option(
                name="outbox-max-messages",
                kind=integer(1, 10_000_000),
                default=10_000,
                doc="accepted messages not yet finished; more are answered busy",
            ),
            Option(
                name="outbox-max-bytes",
                kind=size(64 * 1024, 1024 * 1024 * MIB),
                default=256 * MIB,
                doc="accepted messages not yet finished; more are answered busy",
            ),
        ),
    ),
    Section(
        "Apps",
        (
            Option(
                name="max-apps",
                kind=integer(1, 100_000),
                default=256,
                doc="apps known at once, named and connected ones together",
            ),
            Option(
                name="max-topics-per-app",
                kind=integer(1, 100_000),
                default=1000,
                doc="content topics that one app may subscribe to",
            ),
            Option(
                name="app-expiry",
                kind=duration(60.0, 3650 * _DAY),
                default=30 * _DAY,
                doc="time of absence after which a named app is forgotten",
            ),
            Option(
                name="journal-max-bytes",
                kind=size(64 * 1024, 1024 * 1024 * MIB),
                default=64 * MIB,
                doc="largest journal of one named app; the oldest events go first, and the app is told",
            ),
            Option(
                name="journal-max-age",
                kind=duration(60.0, 3650 * _DAY),
                default=7 * _DAY,
                doc="age at which an event leaves a named app's journal, and the app is told",
            ),
            Option(
                name="journal-total-bytes",
                kind=size(64 * 1024, 1024 * 1024 * MIB),
                default=1024 * MIB,
                doc="all journals together",
            ),
            Option(
                name="ephemeral-max-bytes",
                kind=size(64 * 1024, 16 * 1024 * MIB),
                default=16 * MIB,
                doc="events waiting in memory for one unnamed app",
            ),
            Option(
                name="ephemeral-max-events",
                kind=integer(16, 10_000_000),
                default=20_000,
                doc="events waiting in memory for one unnamed app",
            ),
        ),
    ),
    Section(
        "Metrics",
        (
            *metrics_options(8009),
            common.PORTS_SHIFT,
        ),
    ),
    Section("The process", common.COMMON_OPTIONS),
    Section(
        "Sockets",
        (
            Option(
                name="ipc-apps",
                kind=ENDPOINT,
                unset="ipc://<ipc-dir>/mapi/apps",
                doc="endpoint for apps",
            ),
            Option(
                name="ipc-control",
                kind=ENDPOINT,
                unset="ipc://<ipc-dir>/mapi/control",
                doc="endpoint for health, shutdown and log level",
            ),
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapiConfig(common.CommonConfig):
    """Everything a Messaging API is told. Sizes in bytes, times in seconds."""

    mode: Mode
    preset: str
    """Name of the preset, empty without one."""
    endpoints: MapiEndpoints
    """Where to bind: below `ipc_dir` but for those that were configured."""
    kernel: KernelEndpoints
    """The kernel to attach to. Its hello says where its events are; here is only their usual place."""
    metrics: MetricsConfig
    auto_subscribe: bool
    send_window: float
    catch_up: str | float
    """`on-gap`, `never`, or the seconds between periodic rounds."""
    send_rate_limit: RateLimit | None
    max_apps: int
    max_topics_per_app: int
    app_expiry: float
    journal_max_bytes: int
    journal_max_age: float
    journal_total_bytes: int
    ephemeral_max_bytes: int
    ephemeral_max_events: int
    outbox_max_messages: int
    outbox_max_bytes: int
    resolved: Resolved = field(repr=False, compare=False)

    @property
    def reliability(self) -> bool:
        """Whether sends are to be confirmed by stores: as configured, else what the preset
        says, else true.
        """
        configured: bool | None = self.resolved["reliability"]
        if configured is not None:
            return configured
        preset = find_preset(self.preset)
        return preset is None or preset.reliability

    def check_network(self, network: NetworkInfo) -> None:
        """Refuse a kernel whose network contradicts what is configured here: `ConfigError` naming the key."""
        expected = {
            "preset": (self.preset or None, network.preset),
            "cluster-id": (self.resolved["cluster-id"], network.cluster),
            "num-shards-in-network": (self.resolved["num-shards-in-network"], network.shard_count),
            "max-msg-size": (self.resolved["max-msg-size"], network.max_message_size),
        }
        for key, (wanted, actual) in expected.items():
            if wanted is not None and wanted != actual:
                shown = repr(actual) if actual != "" else "none"
                raise self.resolved.refuse(key, f"{wanted!r} contradicts the kernel, which has {shown}")

    def describe(self) -> list[dict[str, Any]]:
        """All options with their values and where those came from."""
        return common.describe(MAPI_SCHEMA, self.resolved)


def load_mapi_config(
    *,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: TomlFile | None = None,
) -> MapiConfig:
    """Put MAPI's configuration together from its sources. Raises `ConfigError`."""
    return mapi_config(explicit_layers(MAPI_SCHEMA, flags, environ, file))


def mapi_config(layers: Iterable[Layer]) -> MapiConfig:
    """Resolve the layers and check what only fits together or not. Raises `ConfigError`."""
    resolved = resolve(MAPI_SCHEMA, layers)
    if resolved["journal-total-bytes"] < resolved["journal-max-bytes"]:
        raise resolved.refuse("journal-total-bytes", "is below journal-max-bytes, which one app may use")
    shared = common.common_config(resolved, metrics_warnings(resolved))
    run_dir: str = shared["ipc_dir"]
    return MapiConfig(
        **shared,
        mode=Mode(resolved["mode"]),
        preset=resolved["preset"],
        endpoints=common.endpoints(
            resolved, mapi_endpoints, ("ipc-dir", run_dir), {"apps": "ipc-apps", "control": "ipc-control"}
        ),
        kernel=common.endpoints(
            resolved,
            kernel_endpoints,
            ("kernel-dir", resolved["kernel-dir"] or run_dir),
            {"requests": "kernel-requests", "control": "kernel-control"},
        ),
        metrics=metrics_config(resolved, _metrics_port(resolved)),
        auto_subscribe=resolved["auto-subscribe"],
        send_window=resolved["send-window"],
        catch_up=resolved["catch-up"],
        send_rate_limit=resolved["send-rate-limit"].limit if resolved["send-rate-limit"] else None,
        max_apps=resolved["max-apps"],
        max_topics_per_app=resolved["max-topics-per-app"],
        app_expiry=resolved["app-expiry"],
        journal_max_bytes=resolved["journal-max-bytes"],
        journal_max_age=resolved["journal-max-age"],
        journal_total_bytes=resolved["journal-total-bytes"],
        ephemeral_max_bytes=resolved["ephemeral-max-bytes"],
        ephemeral_max_events=resolved["ephemeral-max-events"],
        outbox_max_messages=resolved["outbox-max-messages"],
        outbox_max_bytes=resolved["outbox-max-bytes"],
        resolved=resolved,
    )


def _metrics_port(resolved: Resolved) -> int:
    """The port of the metrics server, shifted and free of clashes."""
    port = common.shifted(resolved, "metrics-server-port")
    if resolved["metrics-server"]:
        endpoints = common.tcp_uses(resolved, ("ipc-apps", "ipc-control"))
        address = resolved["metrics-server-address"]
        refuse_port_clashes((*endpoints, PortUse("metrics-server-port", address, port)))
    return port


# --- (preset, mode, overrides) -> two processes -----------------------------------------------------------

# These are named alike in both processes but must differ: each is the endpoint of one of them.
_OWN_TO_EACH: Final = frozenset({"ipc-control", "metrics-server-port"})
_DECIDED_BY_MODE: Final = frozenset({"relay"})


def _check_overrides(preset: str, overrides: Mapping[str, object]) -> None:
    for key in overrides:
        if key in ("preset", "mode"):
            raise ConfigError(key, "is an argument of its own, not an override")
        if key in _DECIDED_BY_MODE:
            raise ConfigError(key, "is decided by the mode and cannot be overridden")
        if key in _OWN_TO_EACH:
            raise ConfigError(key, "belongs to one process; configure that process itself")
        if key not in KERNEL_SCHEMA and key not in MAPI_SCHEMA:
            hint = KERNEL_SCHEMA.hint(key) or MAPI_SCHEMA.hint(key)
            raise ConfigError(key, f"there is no such option of kernel or Messaging API{hint}")
    find_preset(preset)


def derive_kernel(preset: str, mode: Mode | str, overrides: Mapping[str, object]) -> dict[str, object]:
    """The options of the kernel that a node of this preset and mode needs, as raw values for any source.

    `overrides` may name options of both processes; those that only MAPI has are passed over here and taken by
    `derive_mapi`. The result is checked by resolving it. Raises `ConfigError` naming the key.
    """
    _check_overrides(preset, overrides)
    options: dict[str, object] = {"preset": preset, "relay": _mode(mode) is Mode.CORE}
    options |= {key: value for key, value in overrides.items() if key in KERNEL_SCHEMA}
    load_kernel_config(flags=options)
    return options


def derive_mapi(preset: str, mode: Mode | str, overrides: Mapping[str, object]) -> dict[str, object]:
    """The options of the Messaging API itself: the counterpart of `derive_kernel`."""
    _check_overrides(preset, overrides)
    options: dict[str, object] = {"preset": preset, "mode": str(_mode(mode))}
    options |= {key: value for key, value in overrides.items() if key in MAPI_SCHEMA}
    load_mapi_config(flags=options)
    return options


def _mode(mode: Mode | str) -> Mode:
    try:
        return Mode(mode.lower())
    except ValueError:
        raise ConfigError("mode", f"{mode!r} is none of {', '.join(Mode)}") from None
