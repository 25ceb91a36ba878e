"""Collect the samples of kernel, Messaging API and gateway for one scrape."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from ipc_schema.paths import bridge_status_file
from logos_client.control import ControlClient
from logos_client.exceptions import LogosError
from logos_gateway.operator.app_list import list_apps
from logos_gateway.operator.bridge_samples import bridge_samples
from logos_gateway.operator.exposition import ProcessSamples
from logos_gateway.operator.own_samples import own_samples
from logos_gateway.state import Gateway

log = logging.getLogger(__name__)

_SECONDS: Final = 3.0
"""Seconds for one process to answer; one that does not is reported as down, beside the others."""


class Scraper:
    """Keep a control connection to each process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        links = gateway.links
        self._endpoints = {"kernel": links.kernel_endpoints.control}
        if links.mapi_endpoints is not None:
            self._endpoints["mapi"] = links.mapi_endpoints.control
        self._clients: dict[str, ControlClient] = {}
        self._lock = asyncio.Lock()

    async def scrape(self) -> list[ProcessSamples]:
        """Return the samples of every process that answers, and which ones do."""
        async with self._lock:  # two scrapes at once would ask for the same
            found = await asyncio.gather(*map(self._ask, self._endpoints))
        answered = [one for one in found if one is not None]
        names = {one.process for one in answered}
        up = [("up", {"process": name}, float(name in names)) for name in self._endpoints]
        families = {"up": ("gauge", "1: the process answered this scrape.")}
        own = own_samples(self._gateway)
        bridge = bridge_samples(bridge_status_file(self._gateway.config.ipc_dir))
        if bridge is not None:
            answered.append(bridge)
        return [*answered, own, ProcessSamples("gateway", up, families)]

    async def apps(self) -> dict[str, Any] | None:
        """Return the apps and their sends; None without a Messaging API, or while it does not answer."""
        if "mapi" not in self._endpoints:
            return None
        try:
            return await list_apps(await self._client("mapi"), timeout=_SECONDS)
        except LogosError as error:
            log.debug("no apps: %s", error)
            return None

    async def health(self, process: str) -> dict[str, Any]:
        """Return a process' health, from its control socket. Raises `LogosError`."""
        client = await self._client(process)
        return dict(await client.health_details(timeout=_SECONDS))

    async def _client(self, process: str) -> ControlClient:
        client = self._clients.get(process)
        if client is None:
            client = await ControlClient.connect(self._endpoints[process], timeout=_SECONDS)
            self._clients[process] = client
        return client

    async def _ask(self, process: str) -> ProcessSamples | None:
        try:
            reply = await (await self._client(process)).metrics(timeout=_SECONDS)
        except LogosError as error:
            log.debug("no metrics of %s: %s", process, error)
            return None
        return ProcessSamples(process, reply.samples, reply.families)

    async def close(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients.values()))
