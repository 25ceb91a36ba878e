"""An app on the bare wire: every event as it came, repeats too, over any number of connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ipc_schema.frames import Reply
from ipc_schema.hello import HelloRequest
from ipc_schema.mapi.event_codec import decode_app_event, event_cost
from ipc_schema.mapi.events import AppEvent, AppHeartbeat, MessageReceived, MessagesMissed
from ipc_schema.mapi.methods import MapiHello
from ipc_schema.paths import mapi_endpoints
from logos_client.transport import ConnectionSettings, RequestConnection

HEALTHY = ("MINIMALLY_HEALTHY", "SUFFICIENTLY_HEALTHY")


class Recorder:
    """Keeps what arrives and interprets nothing: no repeat is dropped, nothing is acknowledged or granted but
    on request (`ack_every`: each n-th event). Says hello again by itself."""

    def __init__(
        self,
        run_dir: Path,
        name: str | None = None,
        *,
        credit: int = 1 << 40,
        takeover: bool = False,
        ack_every: int = 0,
    ) -> None:
        self.hellos: list[MapiHello] = []
        self.events: list[tuple[AppEvent, bytes]] = []
        self.costs: list[int] = []
        self.heartbeats = 0
        self._ack_every = ack_every
        self._changed = asyncio.Event()
        request = HelloRequest(kind="app", name=name, takeover=takeover, credit=credit)
        settings = ConnectionSettings(
            hello=request.to_body, on_hello=self._greeted, on_event=self._event, keepalive="ping"
        )
        self.connection = RequestConnection(mapi_endpoints(run_dir / "run").apps, settings)

    def _greeted(self, reply: Reply) -> None:
        self.hellos.append(MapiHello.from_body(reply.body))
        self._changed.set()

    def _event(self, frames: list[bytes]) -> None:
        event = decode_app_event(frames[1])
        if isinstance(event, AppHeartbeat):
            self.heartbeats += 1
        else:
            self.events.append((event, frames[2]))
            self.costs.append(event_cost(frames[1], frames[2]))
            if self._ack_every and len(self.events) % self._ack_every == 0:
                self.connection.notify("ack", {"stream": event.stream_id, "seq": event.seq})
        self._changed.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    async def ask(self, method: str, timeout: float = 30.0, **body: Any) -> dict[str, Any]:
        """One request. Raises IpcError."""
        return dict((await self.connection.request(method, body, timeout=timeout)).body)

    async def until(self, check: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait until `check` holds; it is looked at after each event."""
        try:
            async with asyncio.timeout(timeout):
                while not check():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"it did not happen; last of {len(self.events)}: {self.events[-3:]}"
            ) from None

    async def subscribed(self, topic: str, *, mesh: bool = True, timeout: float = 30.0) -> None:
        """Subscribe, and wait until the shard has a mesh peer."""
        assert (await self.ask("subscribe", topics=[topic]))["errors"] == {}
        async with asyncio.timeout(timeout):
            while mesh and (await self.ask("status"))["topics"][topic] not in HEALTHY:
                self._changed.clear()
                await self._changed.wait()  # a change of health is an event, and there are heartbeats

    # -- what came -------------------------------------------------------------------------------------------

    @property
    def payloads(self) -> list[bytes]:
        """Payloads of all messages, repeats included."""
        return [payload for event, payload in self.events if isinstance(event, MessageReceived)]

    @property
    def missed(self) -> list[MessagesMissed]:
        return [event for event, _ in self.events if isinstance(event, MessagesMissed)]

    def check_names(self) -> int:
        """Each message has one name, (stream id, seq), and each name one event. Returns how many came
        again."""
        by_hash: dict[bytes, tuple[bytes, int]] = {}
        by_name: dict[tuple[bytes, int], AppEvent] = {}
        for event, _ in self.events:
            assert not isinstance(event, AppHeartbeat)
            name = (event.stream_id, event.seq)
            assert by_name.setdefault(name, event) == event, "one name for two events"
            if isinstance(event, MessageReceived):
                assert by_hash.setdefault(event.message_hash, name) == name, "one message under two names"
        return len(self.events) - len(by_name)
