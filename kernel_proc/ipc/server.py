"""The kernel's three sockets: bound in a private directory, served, closed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio
import zmq

from ipc_schema.frames import MAX_BODY
from ipc_schema.server import Route
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.doors import watch_doors
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.loop import TrioLoop
from kernel_proc.ipc.shell import TrioRequests
from kernel_proc.metrics import Registry, Sample
from logos_process.endpoints import bind
from logos_sockets import BLOB_SLACK, Door, open_publisher, open_router
from logos_sockets.drain import DrainSocket

EVENTS_CONNECTIONS: Final = 256
REQUESTS_CONNECTIONS: Final = 256
CONTROL_CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where to bind. `group`: the group of the directory may use the sockets too."""

    events: str
    requests: str
    control: str
    group: bool = False


@dataclass(frozen=True, slots=True)
class IpcSettings:
    """Limits of the sockets, and which users besides our own may use them."""

    max_message_size: int
    in_flight: int
    allowed_uids: Sequence[int] = ()


class IpcServer:
    """XPUB, ROUTER and control. Call `bind`, then run `serve_control` and `serve` as tasks, and `close` at
    the end.

    The control socket can be served before the rest is up, so that health is available from the start.
    """

    def __init__(
        self,
        publisher: EventPublisher,
        consumers: Consumers,
        routes: Mapping[str, Route],
        control: Mapping[str, Route],
        registry: Registry,
        settings: IpcSettings,
    ) -> None:
        self._publisher = publisher
        context = self._context = zmq.Context()
        allowed = frozenset((os.geteuid(), *settings.allowed_uids))
        in_flight, instance = settings.in_flight, publisher.instance
        self._requests = TrioRequests(
            "requests", instance, routes, consumers=consumers, allowed_uids=allowed, in_flight=in_flight
        )
        self._control = TrioRequests("control", instance, control, allowed_uids=allowed)
        self._events = TrioLoop("events")
        frame = max(MAX_BODY, settings.max_message_size + BLOB_SLACK)
        # A pipe frees space in steps of half its size; a client within its limit must always fit.
        requests_socket = open_router(context, max_frame=frame, hwm=2 * in_flight + 16)
        control_socket = open_router(context, max_frame=64 << 10, hwm=64)
        events_socket = open_publisher(context, settings.max_message_size)
        self.doors = (
            Door(events_socket, "events", limit=EVENTS_CONNECTIONS, allowed_uids=allowed),
            Door(requests_socket, "requests", limit=REQUESTS_CONNECTIONS, allowed_uids=allowed),
            Door(control_socket, "control", limit=CONTROL_CONNECTIONS, allowed_uids=allowed),
        )
        self.events = DrainSocket(self._events, events_socket, publisher.on_subscription)
        self.requests = self._requests.attach(requests_socket)
        self.control = self._control.attach(control_socket)
        self._sockets = (self.events, self.requests, self.control)
        publisher.attach(self.events)
        registry.add_source(self._samples)

    def bind(self, endpoints: Endpoints) -> None:
        """Bind all three sockets. Raise `StartError`; call `close` for what was bound by then."""
        events, requests, control = self.doors
        bind(control, endpoints.control, group=endpoints.group)
        bind(requests, endpoints.requests, group=endpoints.group)
        bind(events, endpoints.events, group=endpoints.group)
        for shell, door in ((self._requests, requests), (self._control, control)):
            if not door.endpoint.startswith("ipc://"):
                shell.server.allow_all()  # TCP does not reveal the client's user

    @property
    def endpoints(self) -> Endpoints:
        events, requests, control = self.doors
        return Endpoints(events.endpoint, requests.endpoint, control.endpoint)

    async def serve_control(self) -> None:
        """Answer on the control socket, and admit clients everywhere, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._control.loop.run, name="ipc control")
            nursery.start_soon(watch_doors, self.doors, self._sockets, name="ipc doors")

    async def serve(self) -> None:
        """Answer requests and send events until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._requests.run, name="ipc dispatch")
            nursery.start_soon(self._requests.loop.run, name="ipc requests")
            nursery.start_soon(self._events.run, name="ipc events")
            nursery.start_soon(self._publisher.run, name="ipc heartbeat")

    def close(self) -> None:
        """Close the sockets; pending replies are still sent, for up to a second."""
        for door in self.doors:
            door.close()
        for socket in self._sockets:
            socket.close()
        self._context.term()

    def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        loops = (self._events, self._requests.loop, self._control.loop)
        for door, socket, loop in zip(self.doors, self._sockets, loops, strict=True):
            labels = {"socket": door.name}
            counters = door.counters
            samples += [
                ("ipc_messages_received", labels, socket.counters.received),
                ("ipc_messages_sent", labels, socket.counters.sent),
                ("ipc_dropped_slow", labels, socket.counters.dropped),
                ("ipc_dropped_gone", labels, socket.counters.unroutable),
                ("ipc_handler_errors", labels, loop.errors),
                ("ipc_connections", labels, door.connections),
                ("ipc_connections_accepted", labels, counters.accepted),
                ("ipc_connections_refused", labels, counters.refused),
                ("ipc_connections_denied", labels, counters.denied),
                ("ipc_connections_flooding", labels, counters.flooding),
            ]
        for shell in (self._requests, self._control):
            name = shell.server.name
            for method, count in shell.server.counters.requests.items():
                samples.append(("ipc_requests", {"socket": name, "method": method}, count))
            for code, count in shell.server.counters.errors.items():
                samples.append(("ipc_errors", {"socket": name, "code": code}, count))
        return samples
