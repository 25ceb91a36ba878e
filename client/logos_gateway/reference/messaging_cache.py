"""The app behind the messaging routes: all HTTP clients share it, and its events are kept until polled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from ipc_schema.errors import ErrorCode
from ipc_schema.message import format_hash
from ipc_schema.paths import MapiEndpoints
from logos_client.events import (
    Event,
    MessageError,
    MessagePropagated,
    MessageQueued,
    MessageReceived,
    MessageSent,
    MessageUnconfirmed,
)
from logos_client.exceptions import LogosError, NotReadyError
from logos_client.messaging import MessagingClient
from logos_gateway.json_values import write_message
from logos_gateway.polling_caches import ReceivedCache, SendEventCache

log = logging.getLogger(__name__)


class MessagingCache:
    """One unnamed app of the Messaging API, connected when it is first used."""

    def __init__(self, endpoints: MapiEndpoints | None) -> None:
        self.received = ReceivedCache()
        self.sends = SendEventCache()
        self._endpoints = endpoints
        self._client: MessagingClient | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def available(self) -> bool:
        """Whether the node has a Messaging API."""
        return self._endpoints is not None

    async def client(self) -> MessagingClient:
        """Return the app's connection. Raises `LogosError`."""
        if self._endpoints is None:
            raise NotReadyError(ErrorCode.NOT_READY, "this node has no Messaging API")
        async with self._lock:
            if self._client is None:
                self._client = await MessagingClient.connect(self._endpoints.apps, timeout=5.0)
                self._reading = asyncio.get_running_loop().create_task(self._read(self._client))
            return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, client: MessagingClient) -> None:
        with contextlib.suppress(LogosError):  # closed: by us, or taken over
            async for event in client:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        match event:
            case MessageReceived():
                digest = format_hash(event.message_hash)
                shown = {"messageHash": digest, "message": write_message(event), "source": event.source}
                self.received.add(shown)
            case MessageQueued():
                self._fate(event.request_id, "queued", None)
            case MessagePropagated():
                self._fate(event.request_id, "propagated", event.message_hash)
            case MessageSent():
                self._fate(event.request_id, "sent", event.message_hash)
            case MessageError():
                self._fate(event.request_id, "error", event.message_hash, event.text)
            case MessageUnconfirmed():
                # The reference reports nothing here: its `propagated` stands.
                log.debug("a send stays unconfirmed: %s", event.reason)

    def _fate(self, request_id: bytes, kind: str, digest: bytes | None, error: str = "") -> None:
        shown: dict[str, Any] = {
            "kind": kind,
            "messageHash": "" if digest is None else format_hash(digest),
            "timestamp": time.time_ns(),
        }
        if error:
            shown["error"] = error
        self.sends.add(request_id.hex(), shown)
