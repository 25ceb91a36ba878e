"""Options of the service protocols: what the node serves, which peers it uses, and the limits of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from ipc_schema.config import common
from ipc_schema.config.addresses import can_dial, check_peer_address, peer_id_in
from ipc_schema.config.archive import (
    DEFAULT_DATABASE_URL,
    DEFAULT_RETENTION,
    RetentionPolicy,
    parse_database_url,
    parse_retention,
)
from ipc_schema.config.kinds import BOOLEAN, Kind, checked, duration, integer, size, text_of
from ipc_schema.config.options import OptionSection, Resolved, option
from ipc_schema.config.ratelimits import RATE_LIMIT, RateLimit, RateLimitSetting, rate_limits

if TYPE_CHECKING:
    from ipc_schema.config.kernel import KernelOptions


MAX_TEXT: Final = 2048


def _check_service_node(text: str) -> None:
    check_peer_address(text)
    if peer_id_in(text) is None:
        raise ValueError(f"{text!r}: the peer id is missing (/p2p/<peer id>)")


def _parse_database_url(raw: object) -> str:
    if not isinstance(raw, str) or len(raw) > MAX_TEXT:  # do not quote the value: it may hold a password
        raise ValueError("a URL is needed: sqlite://<path> or postgres://user:password@host:port/name")
    parse_database_url(raw, Path())
    return raw


def _parse_read_url(raw: object) -> str:
    url = _parse_database_url(raw)
    if url.lower().startswith("sqlite:"):
        raise ValueError("only an archive in PostgreSQL has a second database: postgres://…")
    return url


def _without_password(url: str) -> str:
    return re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url))


SERVICE_NODE: Final = Kind("multiaddr", checked(_check_service_node))
DATABASE_URL: Final = Kind("database URL", _parse_database_url, _without_password)
READ_URL: Final = Kind("database URL", _parse_read_url, _without_password)
RETENTION: Final = Kind("retention policy", lambda raw: parse_retention(text_of(raw)), str)


@dataclass(frozen=True, kw_only=True)
class ServiceOptions(OptionSection):
    """Services."""

    TITLE: ClassVar[str] = "Services"

    store: bool = option(BOOLEAN, "archive messages and answer history queries", default=False)
    storenode: str | None = option(SERVICE_NODE, "preferred store peer")
    store_message_db_url: str = option(
        DATABASE_URL,
        "database of the archive: sqlite://<path>, relative to data-dir, or postgres://…",
        default=DEFAULT_DATABASE_URL,
        conceals=lambda url: _without_password(url) != url,
    )
    store_message_db_read_url: str | None = option(
        READ_URL,
        "replica in PostgreSQL that history queries read from, while it answers",
        conceals=lambda url: _without_password(url) != url,
    )
    store_message_spool_size: int = option(
        size(0, 1 << 50),
        "most bytes of messages kept on disk while PostgreSQL is away; 0: only those in memory",
        default=1 << 30,
    )
    store_message_retention_policy: RetentionPolicy = option(
        RETENTION,
        "what the archive keeps: time:<seconds>, capacity:<messages>, size:<n>MB|GB, joined by ';'; none",
        default=parse_retention(DEFAULT_RETENTION),
    )
    store_max_num_db_connections: int = option(
        integer(2, 1000), "most connections to the database (a SQLite archive uses at most 5)", default=8
    )
    store_message_db_migration: bool = option(BOOLEAN, "migrate a database of an older version", default=True)
    store_message_db_vacuum: bool = option(BOOLEAN, "vacuum the database at start", default=False)
    store_sync: bool = option(
        BOOLEAN,
        "compare the archive with those of other stores, and give each other what is missing",
        default=False,
    )
    store_sync_interval: float = option(
        duration(1.0, 86_400.0), "time between two comparisons", default=300.0
    )
    store_sync_range: float = option(
        duration(10.0, 604_800.0), "how far back archives are compared", default=3600.0
    )
    store_sync_relay_jitter: float = option(
        duration(0.0, 3600.0),
        "age from which messages are compared: younger ones may still be on their way",
        default=20.0,
    )
    store_resume: bool = option(
        BOOLEAN, "at start, fetch what the archive missed from other stores", default=False
    )
    lightpush: bool = option(BOOLEAN, "publish messages for light clients; needs relay", default=True)
    lightpushnode: str | None = option(SERVICE_NODE, "preferred lightpush peer")
    filter: bool = option(
        BOOLEAN, "push messages of the node's shards to light clients; needs relay", default=True
    )
    filternode: str | None = option(SERVICE_NODE, "preferred filter peer")
    filter_subscription_timeout: float = option(
        duration(1.0, 86_400.0),
        "time after which a silent light client is forgotten",
        default=300.0,
    )
    filter_max_peers_to_serve: int = option(integer(1, 100_000), "most light clients", default=1000)
    filter_max_criteria: int = option(
        integer(1, 100_000), "most subscriptions per light client", default=1000
    )
    peer_exchange: bool = option(BOOLEAN, "serve peer exchange", default=True)
    peer_exchange_node: str | None = option(SERVICE_NODE, "preferred peer for peer exchange")
    rate_limit: tuple[RateLimitSetting, ...] = option(
        RATE_LIMIT,
        "requests served: [store|lightpush|px|filter:]<volume>/<period><h|m|s|ms>; volume 0: no limit; "
        "without a protocol: for all that have none of their own",
        repeatable=True,
        unset="filter:100/1s, lightpush:5/1s, px:5/1s, store without limit",
    )

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of all configured service peers."""
        nodes = (self.storenode, self.lightpushnode, self.filternode, self.peer_exchange_node)
        return tuple(node for node in nodes if node is not None)

    @property
    def rate_limits(self) -> Mapping[str, RateLimit | None]:
        """By protocol: store, lightpush, px, filter. None: no limit."""
        return rate_limits(self.rate_limit)


SERVICE_NODES: Final = ("storenode", "lightpushnode", "filternode", "peer-exchange-node")


def _dialled(address: str | None) -> str | None:
    """Return the address unless its transport is not spoken here; a warning then says so."""
    return address if address is not None and can_dial(address) else None


def effective_services(options: ServiceOptions) -> ServiceOptions:
    """Return the options as the node follows them: what needs store is off without it, and peers whose
    transport is not spoken here are not dialled."""
    return replace(
        options,
        store_sync=options.store_sync and options.store,
        store_resume=options.store_resume and options.store,
        storenode=_dialled(options.storenode),
        lightpushnode=_dialled(options.lightpushnode),
        filternode=_dialled(options.filternode),
        peer_exchange_node=_dialled(options.peer_exchange_node),
    )


def service_warnings(resolved: Resolved[KernelOptions]) -> Iterable[str]:
    """Return the warnings to log once at start."""
    if not resolved.options.services.store:
        yield from common.without_effect(
            resolved,
            (
                "store-message-db-url",
                "store-message-db-read-url",
                "store-message-spool-size",
                "store-message-retention-policy",
                "store-max-num-db-connections",
                "store-message-db-migration",
                "store-message-db-vacuum",
                "store-sync",
                "store-resume",
            ),
            "store is off",
        )
    elif resolved.options.services.store_message_db_url.lower().startswith("sqlite:"):
        yield from common.without_effect(
            resolved, ("store-message-db-read-url", "store-message-spool-size"), "the archive is in SQLite"
        )
    if not (resolved.options.services.store and resolved.options.services.store_sync):
        yield from common.without_effect(
            resolved,
            ("store-sync-interval", "store-sync-range", "store-sync-relay-jitter"),
            "store-sync is off",
        )
    if not resolved.options.peers.relay:
        if resolved.options.services.store:
            yield "store answers from what is in its database: relay is off, so nothing new comes in"
        if resolved.options.services.lightpush:
            yield from common.without_effect(resolved, ("lightpush",), "relay is off")
        if resolved.options.services.filter:
            yield from common.without_effect(resolved, ("filter",), "relay is off")
    if not resolved.options.services.filter:
        yield from common.without_effect(
            resolved,
            ("filter-subscription-timeout", "filter-max-peers-to-serve", "filter-max-criteria"),
            "filter is off",
        )
