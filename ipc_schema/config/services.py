"""Options of the service protocols: what the node serves, which peers it asks, and the limits of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ipc_schema.config import common
from ipc_schema.config.addresses import check_multiaddr, peer_id_in
from ipc_schema.config.archive import (
    DEFAULT_DATABASE_URL,
    DEFAULT_RETENTION,
    RetentionPolicy,
    parse_database_url,
    parse_retention,
)
from ipc_schema.config.kinds import Kind, duration, integer
from ipc_schema.config.options import Option, Resolved
from ipc_schema.config.ratelimits import RATE_LIMIT, RateLimit, rate_limits

__all__ = ["SERVICE_OPTIONS", "ServiceConfig", "service_config", "service_warnings"]

MAX_TEXT: Final = 2048


def _parse_service_node(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"expected a multiaddr, not {raw!r}")
    check_multiaddr(raw)
    if peer_id_in(raw) is None:
        raise ValueError(f"{raw!r}: the peer id is missing (/p2p/<peer id>)")
    return raw


def _parse_database_url(raw: object) -> str:
    if not isinstance(raw, str) or len(raw) > MAX_TEXT:  # the value is not repeated: it may hold a password
        raise ValueError("a URL is needed: sqlite://<path> or postgres://user:password@host:port/name")
    parse_database_url(raw, Path())
    return raw


def _parse_policy(raw: object) -> RetentionPolicy:
    if not isinstance(raw, str):
        raise ValueError(f"{raw!r} is not a retention policy such as time:172800;size:10GB")
    return parse_retention(raw)


def _without_password(url: str) -> str:
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))


SERVICE_NODE: Final = Kind("multiaddr", _parse_service_node)
DATABASE_URL: Final = Kind("database URL", _parse_database_url, _without_password)
RETENTION: Final = Kind("retention policy", _parse_policy, str)

SERVICE_OPTIONS: Final = (
    common.switch("store", False, "archive messages and answer history queries"),
    Option(name="storenode", kind=SERVICE_NODE, doc="peer to ask first for history"),
    Option(
        name="store-message-db-url",
        kind=DATABASE_URL,
        default=DEFAULT_DATABASE_URL,
        conceals=lambda url: _without_password(url) != url,
        doc="database of the archive: sqlite://<path>, relative to data-dir, or postgres://…",
    ),
    Option(
        name="store-message-retention-policy",
        kind=RETENTION,
        default=parse_retention(DEFAULT_RETENTION),
        doc="what the archive keeps: time:<seconds>, capacity:<messages>, size:<n>MB|GB, joined by ';'; none",
    ),
    Option(
        name="store-max-num-db-connections",
        kind=integer(2, 1000),
        default=8,
        doc="connections to the database at once (a SQLite archive uses at most 5)",
    ),
    common.switch("store-message-db-migration", True, "bring a database of an older version up to date"),
    common.switch("store-message-db-vacuum", False, "give the database's unused space back at start"),
    common.switch("lightpush", True, "publish messages for light clients; needs relay"),
    Option(name="lightpushnode", kind=SERVICE_NODE, doc="peer to ask first to publish a message"),
    common.switch("filter", True, "push messages of the node's shards to light clients; needs relay"),
    Option(name="filternode", kind=SERVICE_NODE, doc="peer to ask first to push messages"),
    Option(
        name="filter-subscription-timeout",
        kind=duration(1.0, 86_400.0),
        default=300.0,
        doc="time after which a light client that is not heard of is forgotten",
    ),
    Option(
        name="filter-max-peers-to-serve",
        kind=integer(1, 100_000),
        default=1000,
        doc="light clients at once",
    ),
    Option(
        name="filter-max-criteria",
        kind=integer(1, 100_000),
        default=1000,
        doc="subscriptions of one light client",
    ),
    common.switch("peer-exchange", True, "give records of peers to those that ask"),
    Option(name="peer-exchange-node", kind=SERVICE_NODE, doc="peer to ask first for records of peers"),
    Option(
        name="rate-limit",
        kind=RATE_LIMIT,
        repeatable=True,
        unset="filter:100/1s, lightpush:5/1s, px:5/1s, store without limit",
        doc="requests served: [store|lightpush|px|filter:]<volume>/<period><h|m|s|ms>; volume 0: no limit; "
        "without a protocol: for all that have none of their own",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """What the service protocols are told."""

    store: bool
    store_node: str | None
    store_database: str = field(repr=False)
    store_retention: RetentionPolicy
    store_connections: int
    store_migrate: bool
    store_vacuum: bool
    lightpush: bool
    lightpush_node: str | None
    filter: bool
    filter_node: str | None
    filter_timeout: float
    """Seconds."""
    filter_max_peers: int
    filter_max_criteria: int
    peer_exchange: bool
    peer_exchange_node: str | None
    rate_limits: Mapping[str, RateLimit | None]
    """By protocol: store, lightpush, px, filter. None: no limit."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of all configured service peers."""
        nodes = (self.store_node, self.lightpush_node, self.filter_node, self.peer_exchange_node)
        return tuple(node for node in nodes if node is not None)


def service_config(resolved: Resolved) -> ServiceConfig:
    """The service part of a resolved configuration."""
    return ServiceConfig(
        store=resolved["store"],
        store_node=resolved["storenode"],
        store_database=resolved["store-message-db-url"],
        store_retention=resolved["store-message-retention-policy"],
        store_connections=resolved["store-max-num-db-connections"],
        store_migrate=resolved["store-message-db-migration"],
        store_vacuum=resolved["store-message-db-vacuum"],
        lightpush=resolved["lightpush"],
        lightpush_node=resolved["lightpushnode"],
        filter=resolved["filter"],
        filter_node=resolved["filternode"],
        filter_timeout=resolved["filter-subscription-timeout"],
        filter_max_peers=resolved["filter-max-peers-to-serve"],
        filter_max_criteria=resolved["filter-max-criteria"],
        peer_exchange=resolved["peer-exchange"],
        peer_exchange_node=resolved["peer-exchange-node"],
        rate_limits=rate_limits(resolved["rate-limit"] or ()),
    )


def service_warnings(resolved: Resolved) -> Iterable[str]:
    """What an operator should read once at start."""
    if not resolved["store"]:
        yield from common.without_effect(
            resolved,
            (
                "store-message-db-url",
                "store-message-retention-policy",
                "store-max-num-db-connections",
                "store-message-db-migration",
                "store-message-db-vacuum",
            ),
            "store is off",
        )
    if not resolved["relay"]:
        if resolved["store"]:
            yield "store answers from what is in its database: relay is off, so nothing new comes in"
        if resolved["lightpush"]:
            yield from common.without_effect(resolved, ("lightpush",), "relay is off")
        if resolved["filter"]:
            yield from common.without_effect(resolved, ("filter",), "relay is off")
    if not resolved["filter"]:
        yield from common.without_effect(
            resolved,
            ("filter-subscription-timeout", "filter-max-peers-to-serve", "filter-max-criteria"),
            "filter is off",
        )
