"""The kernel's three sockets together: bound in a private directory, run, closed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio
import zmq

from ipc_schema.frames import MAX_BODY
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.dispatch import Dispatcher, Route
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.sockets import BLOB_SLACK, OwnedSocket, make_router, make_xpub
from kernel_proc.metrics import Registry, Sample

__all__ = ["Endpoints", "IpcServer"]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where to bind. `group`: sockets are for the group of their directory too."""

    events: str
    requests: str
    control: str
    group: bool = False


class IpcServer:
    """XPUB, ROUTER and control. `bind`, then `serve_control` and `serve`, each a task; `close` at the end.

    The control socket can be served before the rest is up: health is to be had from the first moment on.
    """

    def __init__(
        self,
        *,
        publisher: EventPublisher,
        consumers: Consumers,
        routes: Mapping[str, Route],
        control: Mapping[str, Route],
        registry: Registry,
        max_message_size: int,
        in_flight: int,
        allowed_uids: Sequence[int] = (),
    ) -> None:
        self._publisher = publisher
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._allowed = frozenset((os.geteuid(), *allowed_uids))
        self._requests = Dispatcher(
            "requests",
            publisher.instance,
            routes,
            registry,
            consumers=consumers,
            allowed_uids=self._allowed,
            in_flight=in_flight,
        )
        self._control = Dispatcher(
            "control", publisher.instance, control, registry, allowed_uids=self._allowed
        )
        context = self._context
        frame = max(MAX_BODY, max_message_size + BLOB_SLACK)
        self.events = OwnedSocket(make_xpub(context, max_message_size), "events", publisher.on_subscription)
        self.requests = OwnedSocket(
            # A pipe gives room back in steps of half its size; a client within its limit must always fit.
            make_router(context, max_frame=frame, max_waiting=2 * in_flight + 16),
            "requests",
            self._requests.on_message,
            want_peer=True,
        )
        self.control = OwnedSocket(
            make_router(context, max_frame=64 << 10, max_waiting=64),
            "control",
            self._control.on_message,
            want_peer=True,
        )
        self.sockets = (self.events, self.requests, self.control)
        publisher.attach(self.events)
        self._requests.attach(self.requests)
        self._control.attach(self.control)
        registry.add_source(self._samples)

    def bind(self, endpoints: Endpoints) -> None:
        """Bind all three. Raises `StartError`; what was bound by then is for `close`."""
        self.control.bind(endpoints.control, group=endpoints.group)
        self.requests.bind(endpoints.requests, group=endpoints.group)
        self.events.bind(endpoints.events, group=endpoints.group)
        for dispatcher, socket in ((self._requests, self.requests), (self._control, self.control)):
            if not socket.endpoint.startswith("ipc://"):
                dispatcher.allow_all()  # over tcp nobody can be told apart

    async def serve_control(self) -> None:
        """Answer on the control socket until cancelled."""
        await self.control.run()

    async def serve(self) -> None:
        """Answer requests and send events until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._requests.run, name="ipc dispatch")
            nursery.start_soon(self.requests.run, name="ipc requests")
            nursery.start_soon(self.events.run, name="ipc events")
            nursery.start_soon(self._publisher.run, name="ipc heartbeat")

    def close(self) -> None:
        """Close the sockets; answers on their way are still sent, for up to a second."""
        for socket in self.sockets:
            socket.close()
        self._context.term()

    def _samples(self) -> list[Sample]:
        samples: list[Sample] = []
        for socket in self.sockets:
            labels = {"socket": socket.name}
            samples += [
                ("ipc_messages_received", labels, socket.received),
                ("ipc_messages_sent", labels, socket.sent),
                ("ipc_dropped_slow", labels, socket.dropped_slow),
                ("ipc_dropped_gone", labels, socket.dropped_gone),
                ("ipc_handler_errors", labels, socket.handler_errors),
            ]
        return samples
