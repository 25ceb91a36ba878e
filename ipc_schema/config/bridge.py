"""Options and typed configuration of the bridge between a node and NATS JetStream.

The bridge is a client of a kernel and of a Messaging API, and of a NATS server; it has no part in the network
itself. A node has a bridge if `nats-url` is set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from typing import ClassVar, Final
from urllib.parse import urlsplit

from ipc_schema.config import common
from ipc_schema.config.common import BaseProcessOptions, ServedNodeOptions
from ipc_schema.config.kinds import BOOLEAN, PATH, Kind, checked, duration, integer, size
from ipc_schema.config.options import Layer, OptionSection, Resolved, Schema, option, resolve
from ipc_schema.config.sources import load_config
from ipc_schema.paths import KernelEndpoints, MapiEndpoints
from ipc_schema.topics import MAX_SHARD_COUNT, autoshard

_SCHEMES: Final = ("nats", "tls", "ws", "wss")
_ENCRYPTED: Final = ("tls", "wss")
_MAX_PREFIX: Final = 64


def _parse_url(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not a URL")
    try:
        url = urlsplit(raw if "://" in raw else f"nats://{raw}")
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"{raw!r} is not a URL: {error}") from None
    if url.scheme not in _SCHEMES or not host or url.path.strip("/") or url.query or url.fragment:
        raise ValueError(f"{raw!r} is not a NATS server such as nats://nats1.example:4222")
    if url.username is not None or url.password is not None:
        raise ValueError("a URL may not hold credentials, which others could read: set nats-credentials")
    return url.geturl()


def _parse_prefix(raw: object) -> str:
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", raw):
        raise ValueError(
            f"{raw!r} cannot begin subjects: words of letters, digits, _ and -, separated by dots"
        )
    if len(raw) > _MAX_PREFIX:
        raise ValueError(f"{raw!r} is longer than {_MAX_PREFIX} characters")
    return raw


NATS_URL: Final = Kind("NATS URL", _parse_url)
SUBJECT_PREFIX: Final = Kind("subject prefix", _parse_prefix)
CONTENT_TOPIC: Final = Kind("content topic", checked(lambda text: autoshard(text, 1)))


@dataclass(frozen=True, kw_only=True)
class NatsOptions(OptionSection):
    """Options of the connection to NATS."""

    TITLE: ClassVar[str] = "NATS"

    nats_url: tuple[str, ...] = option(
        NATS_URL,
        "a NATS server, nats://host:port or tls://host:port; further ones of a cluster are learned from it",
        repeatable=True,
        unset="no bridge",
    )
    nats_credentials: str | None = option(
        PATH, "credentials file (.creds) of the NATS user; readable by its owner only"
    )
    nats_nkey_seed: str | None = option(
        PATH, "file with the NKey seed of the NATS user; readable by its owner only"
    )
    nats_tls_ca: str | None = option(
        PATH, "certificate authorities of the NATS server in PEM", unset="those of the system"
    )
    nats_tls_cert: str | None = option(PATH, "certificate chain in PEM to show to the NATS server")
    nats_tls_key: str | None = option(PATH, "private key of nats-tls-cert in PEM")
    nats_prefix: str = option(
        SUBJECT_PREFIX,
        "what every subject begins with; streams and buckets are named after it",
        default="logos",
    )
    nats_replicas: int = option(
        integer(1, 5), "copies of each stream that the bridge creates; 3 in a cluster", default=1
    )


@dataclass(frozen=True, kw_only=True)
class OutwardOptions(OptionSection):
    """Options of the way from the node to JetStream."""

    TITLE: ClassVar[str] = "Messages out"

    bridge_out: bool = option(BOOLEAN, "publish the messages of the network to JetStream", default=True)
    bridge_shard: tuple[int, ...] = option(
        integer(0, MAX_SHARD_COUNT - 1, "shard"),
        "shard whose messages are published",
        repeatable=True,
        unset="those of bridge-content-topic, else all shards of the network",
    )
    bridge_content_topic: tuple[str, ...] = option(
        CONTENT_TOPIC,
        "content topic whose messages are published",
        repeatable=True,
        unset="all of the shards",
    )
    bridge_max_age: float = option(
        duration(60, 366 * 86400),
        "how long a stream that the bridge creates keeps messages",
        default=604800.0,
    )
    bridge_max_bytes: int = option(
        size(0, 1 << 50), "bytes that a stream that the bridge creates keeps; 0: no bound", default=0
    )
    bridge_duplicate_window: float = option(
        duration(60, 86400),
        "within this time JetStream itself drops a second copy; the bridge looks up older ones",
        default=120.0,
    )


@dataclass(frozen=True, kw_only=True)
class InwardOptions(OptionSection):
    """Options of the way from JetStream to the network."""

    TITLE: ClassVar[str] = "Sends in"

    bridge_in: bool = option(
        BOOLEAN, "take sends from JetStream and hand them to the Messaging API", default=True
    )
    bridge_in_flight: int = option(
        integer(1, 10_000),
        "sends that the bridge works on before it takes further ones; of their payloads 64 MiB at most",
        default=5_000,
    )
    bridge_takeover_after: float = option(
        duration(2, 3600), "silence of another bridge after which its sends are taken over", default=15.0
    )


@dataclass(frozen=True, kw_only=True)
class BridgeOptions:
    """All options of a bridge, by section."""

    nats: NatsOptions
    outward: OutwardOptions
    inward: InwardOptions
    node: ServedNodeOptions
    process: BaseProcessOptions


BRIDGE_SCHEMA: Final = Schema("bridge", BridgeOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig(common.BaseConfig):
    """Typed configuration of a bridge."""

    nats: NatsOptions
    """Without a URL there is nothing to bridge to."""
    outward: OutwardOptions
    inward: InwardOptions
    """`bridge_in` is off without a Messaging API."""
    kernel: KernelEndpoints
    mapi: MapiEndpoints | None
    """None: the node is a kernel alone."""
    resolved: Resolved[BridgeOptions] = field(repr=False, compare=False)


def bridge_config(layers: Iterable[Layer]) -> BridgeConfig:
    """Resolve the layers and check the options against each other. Raises `ConfigError`."""
    resolved = resolve(BRIDGE_SCHEMA, layers)
    options = resolved.options
    shared = common.base_config(resolved, options.process, _warnings(resolved))
    run_dir: str = shared["ipc_dir"]
    _check(resolved)
    return BridgeConfig(
        **shared,
        nats=options.nats,
        outward=options.outward,
        inward=replace(options.inward, bridge_in=options.inward.bridge_in and options.node.mapi),
        kernel=common.served_kernel(resolved, options.node, run_dir),
        mapi=common.served_mapi(resolved, options.node, run_dir),
    )


load_bridge_config: Final = partial(load_config, BRIDGE_SCHEMA, bridge_config)


def _check(resolved: Resolved[BridgeOptions]) -> None:
    options = resolved.options
    nats = options.nats
    common.check_pair(resolved, "nats-tls-cert", "nats-tls-key")
    if nats.nats_credentials is not None and nats.nats_nkey_seed is not None:
        raise resolved.refuse("nats-nkey-seed", "nats-credentials names the user already")
    if (
        nats.nats_url
        and not options.outward.bridge_out
        and not (options.inward.bridge_in and options.node.mapi)
    ):
        raise resolved.refuse("bridge-out", "a bridge needs bridge-out, or bridge-in with a Messaging API")
    if options.outward.bridge_duplicate_window > options.outward.bridge_max_age:
        raise resolved.refuse("bridge-duplicate-window", "is longer than bridge-max-age")


def _warnings(resolved: Resolved[BridgeOptions]) -> Iterable[str]:
    """Return the warnings to log once at start."""
    options = resolved.options
    if not options.outward.bridge_out:
        names = ("bridge-shard", "bridge-content-topic")
        yield from common.without_effect(resolved, names, "bridge-out is off")
    if not options.inward.bridge_in:
        names = ("bridge-in-flight", "bridge-takeover-after")
        yield from common.without_effect(resolved, names, "bridge-in is off")
    if options.nats.nats_tls_ca is None and options.nats.nats_tls_cert is None:
        for url in options.nats.nats_url:
            if not _loopback(url) and urlsplit(url).scheme not in _ENCRYPTED:
                yield f"{url} may be reached without TLS: use tls://, or set nats-tls-ca"


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
