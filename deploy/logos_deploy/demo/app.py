"""An app of the demonstration: one named client whose events go into the ledger."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from ipc_schema.kernel.records import TopicHealth
from logos_client.events import (
    ConnectionStatusChange,
    ContentTopicHealthChange,
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessageError,
    MessagePropagated,
    MessageReceived,
    MessagesMissed,
)
from logos_client.messaging import MessagingClient
from logos_deploy.demo.ledger import Entry, Ledger

_SEND: Final = 30.0
_HEALTHY: Final = (TopicHealth.MINIMALLY_HEALTHY, TopicHealth.SUFFICIENTLY_HEALTHY)


class DemoError(Exception):
    """The demonstration failed; the text says how."""


class DemoApp:
    """One app on one node.

    Enter it with `open`; `changed`, shared by all apps, is set on each event of any of them.
    """

    def __init__(self, name: str, topic: str, ledger: Ledger, changed: asyncio.Event) -> None:
        self.name = name
        self.topic = topic
        self.notes: list[str] = []
        """Events other than messages, as text."""
        self._ledger = ledger
        self._changed = changed
        self._client: MessagingClient | None = None
        self._reader: asyncio.Task[None] | None = None
        self._linked = True
        self._healthy = False
        self._connection = ""

    async def open(self, run_dir: Path, timeout: float) -> Self:
        """Connect, subscribe, start reading."""
        self._client = await MessagingClient.connect(run_dir, name=self.name, timeout=timeout)
        errors = await self._client.subscribe(self.topic)
        if errors:
            raise DemoError(f"{self.name} cannot subscribe: {errors}")
        status = await self._client.status()
        self._connection = status.connection
        self._healthy = status.topics.get(self.topic) in _HEALTHY
        self._reader = asyncio.create_task(self._read(self._client))
        return self

    async def close(self) -> None:
        """Disconnect; the Messaging API may be gone already."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @property
    def max_payload(self) -> int:
        """Largest payload that certainly fits, from the Messaging API's hello."""
        assert self._client is not None
        return self._client.limits.max_payload

    @property
    def ready(self) -> bool:
        """True if messages would go through: its Messaging API is connected, and its topic has peers."""
        return self._linked and self._healthy

    @property
    def cut_off(self) -> bool:
        """True if its node has no peers, or no kernel."""
        return not self._healthy

    async def send(self, payload: bytes) -> Entry:
        """Send, even while the Messaging API is down: the client then waits for it."""
        assert self._client is not None
        loop = asyncio.get_running_loop()
        request_id = os.urandom(16)
        entry = self._ledger.sending(self.name, payload, request_id, loop.time())
        await self._client.send(self.topic, payload, request_id=request_id, timeout=_SEND)
        entry.accepted_at = loop.time()
        self._changed.set()
        return entry

    async def _read(self, client: MessagingClient) -> None:
        loop = asyncio.get_running_loop()
        async for event in client:
            self._take(event, loop.time())
            self._changed.set()

    def _take(self, event: Event, now: float) -> None:
        match event:
            case MessageReceived():
                self._ledger.received(self.name, event.payload, now)
            case MessagePropagated():
                self._ledger.propagated(event.request_id, now)
            case MessageError():
                self._ledger.failed(event.request_id, event.text)
            case ContentTopicHealthChange(content_topic=self.topic):
                self._healthy = event.health in _HEALTHY
            case ConnectionStatusChange():
                self._connection = event.status
                self.notes.append(
                    f"{self.name}: {event.status}" + (f" ({event.reason})" * bool(event.reason))
                )
            case LinkLost():
                self._linked = False
                self.notes.append(f"{self.name}: the Messaging API is unreachable")
            case LinkRestored():
                self._linked = True
                state = "the stream goes on where it was" if event.resumed else "the stream is LOST"
                self.notes.append(f"{self.name}: the Messaging API is back, {state}")
            case MessagesMissed():
                # Seconds wider than the gap: messages were in flight when it began and ended.
                seconds = (event.to_ns - event.from_ns) / 1e9
                self.notes.append(
                    f"{self.name}: messages may be missing, within {seconds:.1f} s ({event.reason})"
                )
            case EventsDropped():
                self.notes.append(f"{self.name}: events {event.first} to {event.last} were DROPPED")

    async def until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait for a condition that some app's event makes true. Raises `DemoError`."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise DemoError(f"{what}: not within {timeout:g} s") from None
