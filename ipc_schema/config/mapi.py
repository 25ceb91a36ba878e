"""The Messaging API's options, its typed configuration, and the kernel configuration derived from them.

`mode` exists only here. There are two ways to a running node:

- MAPI builds its kernel: `derive_kernel` and `derive_mapi` split (preset, mode, overrides) between the two
  processes.
- MAPI attaches to a running kernel: the network is what the kernel's hello says. Network options configured
  here (`preset`, `cluster-id`, `num-shards-in-network`, `max-msg-size`) are then an expectation, and
  `MapiConfig.check_network` refuses a kernel that does not meet it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import ClassVar, Final

from ipc_schema.config import common
from ipc_schema.config.common import AttachOptions, ProcessOptions
from ipc_schema.config.kernel import KERNEL_SCHEMA, MIB, load_kernel_config
from ipc_schema.config.kinds import (
    BOOLEAN,
    ENDPOINT,
    Kind,
    choice,
    duration,
    format_duration,
    integer,
    parse_duration,
    size,
)
from ipc_schema.config.options import (
    ConfigError,
    Layer,
    OptionSection,
    Resolved,
    Schema,
    option,
    resolve,
)
from ipc_schema.config.presets import find_preset
from ipc_schema.config.ratelimits import RateLimit, RateLimitSetting, parse_rate_limit
from ipc_schema.config.sources import load_config
from ipc_schema.hello import NetworkInfo
from ipc_schema.paths import KernelEndpoints, MapiEndpoints, mapi_endpoints
from ipc_schema.topics import MAX_CLUSTER, MAX_SHARD_COUNT

_DAY: Final = 86400.0


class Mode(StrEnum):
    """How the node takes part: `core` relays; `edge` uses the service protocols of other nodes."""

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


@dataclass(frozen=True, kw_only=True)
class NodeOptions(OptionSection):
    """The node's mode, and the network that its kernel is expected to be on."""

    TITLE: ClassVar[str] = "The node"

    mode: Mode = option(
        choice(" or ".join(Mode), tuple(Mode)), "how the node takes part in the network", default=Mode.CORE
    )
    preset: str = common.preset_option()
    cluster_id: int | None = option(integer(0, MAX_CLUSTER), "expected of the kernel: cluster of the network")
    num_shards_in_network: int | None = option(
        integer(0, MAX_SHARD_COUNT), "expected of the kernel: shards of the cluster; 0: static sharding"
    )
    max_msg_size: int | None = option(
        size(1024, 16 * MIB), "expected of the kernel: largest relay frame and largest encoded message"
    )


@dataclass(frozen=True, kw_only=True)
class MessageOptions(OptionSection):
    """Sends, confirmation and catch-up."""

    TITLE: ClassVar[str] = "Messages"

    auto_subscribe: bool = option(
        BOOLEAN, "subscribe an app to a content topic when it first sends on it", default=True
    )
    send_window: float = option(
        duration(1.0, _DAY),
        "time within which a message must reach the network",
        default=60.0,
    )
    reliability: bool | None = option(
        BOOLEAN,
        "confirm sends with store nodes, and publish again if they lack the message",
        unset="the preset's, true without one",
    )
    catch_up: str | float = option(
        CATCH_UP,
        "when to query stores for missed messages: on-gap, never, or a period such as 10m",
        default="on-gap",
    )
    send_rate_limit: RateLimitSetting | None = option(
        SEND_RATE,
        "messages sent per epoch, in order, such as 100/10m; more wait for the next epoch",
        unset="no limit",
    )
    outbox_max_messages: int = option(
        integer(1, 10_000_000),
        "accepted messages waiting for the network, shared fairly between apps; more are answered busy",
        default=10_000,
    )
    outbox_max_bytes: int = option(
        size(64 * 1024, 1024 * 1024 * MIB),
        "accepted messages waiting for the network, shared fairly between apps; more are answered busy",
        default=256 * MIB,
    )


@dataclass(frozen=True, kw_only=True)
class AppOptions(OptionSection):
    """Bounds per app and of all apps."""

    TITLE: ClassVar[str] = "Apps"

    max_apps: int = option(integer(1, 100_000), "most apps, named and connected ones together", default=256)
    max_topics_per_app: int = option(
        integer(1, 100_000), "content topics that one app may subscribe to", default=1000
    )
    app_expiry: float = option(
        duration(60.0, 3650 * _DAY), "time of absence after which a named app is forgotten", default=30 * _DAY
    )
    journal_max_bytes: int = option(
        size(64 * 1024, 1024 * 1024 * MIB),
        "largest journal of one named app; the oldest events are dropped first, and the app is notified",
        default=64 * MIB,
    )
    journal_max_age: float = option(
        duration(60.0, 3650 * _DAY),
        "age at which an event is dropped from a named app's journal; the app is notified",
        default=7 * _DAY,
    )
    journal_total_bytes: int = option(
        size(64 * 1024, 1024 * 1024 * MIB), "all journals together", default=1024 * MIB
    )
    ephemeral_max_bytes: int = option(
        size(64 * 1024, 16 * 1024 * MIB), "events queued in memory for one unnamed app", default=16 * MIB
    )
    ephemeral_max_events: int = option(
        integer(16, 10_000_000), "events queued in memory for one unnamed app", default=20_000
    )


@dataclass(frozen=True, kw_only=True)
class ChannelOptions(OptionSection):
    """Reliable channels."""

    TITLE: ClassVar[str] = "Reliable channels"

    max_channels_per_app: int = option(
        integer(1, 1000), "channels that one app may have, closed ones included", default=1000
    )
    channel_segment_size: int = option(
        size(1024, 1 * MIB),
        "largest segment of a payload; it must fit the network's messages",
        default=102_400,
    )
    channel_ack_timeout: float = option(
        duration(0.1, _DAY),
        "time without acknowledgement until a message is sent again; doubled each time, at most tenfold",
        default=30.0,
    )
    channel_max_attempts: int = option(
        integer(1, 100), "times that a message is sent before its delivery is given up", default=8
    )
    channel_sync_interval: float = option(
        duration(0.1, _DAY),
        "time until an idle channel says what it has; doubled while nothing changes, at most tenfold",
        default=30.0,
    )
    channel_repair_delay: float = option(
        duration(0.1, _DAY),
        "shortest time until other participants are asked for a missing message; the longest is tenfold",
        default=30.0,
    )
    channel_lost_after: float = option(
        duration(1.0, 7 * _DAY),
        "time after which a missing message counts as lost, and what waits for it is delivered",
        default=900.0,
    )


@dataclass(frozen=True, kw_only=True)
class MapiSocketOptions(OptionSection):
    """ZeroMQ endpoints."""

    TITLE: ClassVar[str] = "Sockets"

    ipc_apps: str | None = option(ENDPOINT, "endpoint for apps", unset="ipc://<ipc-dir>/mapi/apps")
    ipc_control: str | None = option(
        ENDPOINT, "endpoint for health, shutdown and log level", unset="ipc://<ipc-dir>/mapi/control"
    )


@dataclass(frozen=True, kw_only=True)
class MapiOptions:
    """All options of a Messaging API, by section."""

    node: NodeOptions
    kernel: AttachOptions
    messages: MessageOptions
    apps: AppOptions
    channels: ChannelOptions
    process: ProcessOptions
    sockets: MapiSocketOptions


MAPI_SCHEMA: Final = Schema("mapi", MapiOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapiConfig(common.CommonConfig):
    """Typed configuration of a Messaging API. Sizes in bytes, times in seconds."""

    mode: Mode
    preset: str
    """Name of the preset, empty without one."""
    endpoints: MapiEndpoints
    """Endpoints to bind: below `ipc_dir` unless configured otherwise."""
    kernel: KernelEndpoints
    """The kernel to attach to. Its hello gives the events endpoint; this one is only the usual place."""
    messages: MessageOptions
    apps: AppOptions
    send_rate_limit: RateLimit | None
    resolved: Resolved[MapiOptions] = field(repr=False, compare=False)

    @property
    def reliability(self) -> bool:
        """Whether stores are asked to confirm sends: as configured, else by preset, else true."""
        configured: bool | None = self.resolved.options.messages.reliability
        if configured is not None:
            return configured
        preset = find_preset(self.preset)
        return preset is None or preset.reliability

    def check_network(self, network: NetworkInfo) -> None:
        """Refuse a kernel whose network contradicts the configuration: `ConfigError` naming the key."""
        expected = {
            "preset": (self.preset or None, network.preset),
            "cluster-id": (self.resolved.options.node.cluster_id, network.cluster),
            "num-shards-in-network": (self.resolved.options.node.num_shards_in_network, network.shard_count),
            "max-msg-size": (self.resolved.options.node.max_msg_size, network.max_message_size),
        }
        for key, (wanted, actual) in expected.items():
            if wanted is not None and wanted != actual:
                shown = repr(actual) if actual != "" else "none"
                raise self.resolved.refuse(key, f"{wanted!r} contradicts the kernel, which has {shown}")


def mapi_config(layers: Iterable[Layer]) -> MapiConfig:
    """Resolve the layers and check the options against each other. Raises `ConfigError`."""
    resolved = resolve(MAPI_SCHEMA, layers)
    if resolved.options.apps.journal_total_bytes < resolved.options.apps.journal_max_bytes:
        raise resolved.refuse("journal-total-bytes", "is below journal-max-bytes, which one app may use")
    options = resolved.options
    shared = common.common_config(resolved, options.process, ())
    run_dir: str = shared["ipc_dir"]
    return MapiConfig(
        **shared,
        mode=options.node.mode,
        preset=options.node.preset,
        endpoints=common.endpoints(
            resolved, mapi_endpoints, ("ipc-dir", run_dir), {"apps": "ipc-apps", "control": "ipc-control"}
        ),
        kernel=common.served_kernel(resolved, options.kernel, run_dir),
        messages=options.messages,
        apps=options.apps,
        send_rate_limit=options.messages.send_rate_limit.limit if options.messages.send_rate_limit else None,
    )


load_mapi_config: Final = partial(load_config, MAPI_SCHEMA, mapi_config)


# --- (preset, mode, overrides) -> two processes -----------------------------------------------------------

# These have the same name in both processes but must differ: each is the endpoint of one process.
_OWN_TO_EACH: Final = frozenset({"ipc-control"})
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
    """Return the options of the kernel for this preset and mode, as raw values for any source.

    `overrides` may name options of both processes; those that only MAPI has are skipped here and used by
    `derive_mapi`. The result is checked by resolving it. Raises `ConfigError` naming the key.
    """
    _check_overrides(preset, overrides)
    options: dict[str, object] = {"preset": preset, "relay": _mode(mode) is Mode.CORE}
    options |= {key: value for key, value in overrides.items() if key in KERNEL_SCHEMA}
    load_kernel_config(flags=options)
    return options


def derive_mapi(preset: str, mode: Mode | str, overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the options of the Messaging API itself: the counterpart of `derive_kernel`."""
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
