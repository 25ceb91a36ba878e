"""State shared by the routes of one gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from starlette.requests import HTTPConnection

from ipc_schema.config.gateway import GatewayConfig
from logos_client.kernel import KernelClient
from logos_gateway.apps.journals import Journals
from logos_gateway.bodies import TextRefusal
from logos_gateway.http_access import AccessCounters
from logos_gateway.node_links import NodeLinks
from logos_gateway.operator.request_figures import RequestFigures
from logos_gateway.reference.messaging_cache import MessagingCache
from logos_gateway.relay_topics import RelayTopics
from logos_gateway.relay_watch import RelayWatch


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One gateway process, as its routes see it."""

    config: GatewayConfig
    links: NodeLinks
    topics: RelayTopics
    watch: RelayWatch
    journals: Journals
    messaging: MessagingCache
    access: AccessCounters = field(default_factory=AccessCounters)
    requests: RequestFigures = field(default_factory=RequestFigures)


def gateway_of(connection: HTTPConnection) -> Gateway:
    """Return the gateway that serves this request or WebSocket."""
    return cast("Gateway", connection.app.state.gateway)


def kernel_for(connection: HTTPConnection, group: str) -> KernelClient:
    """Return the kernel's client, for a route of a group such as `/relay`.

    Raises `TextRefusal` with the reference's 404 while the kernel has not been reached.
    """
    links = gateway_of(connection).links
    if not links.kernel_seen:
        raise TextRefusal(404, f"{group} endpoints are not available while initializing.")
    return links.kernel
