"""The node: one object that puts the parts together, starts them in order and ends with them.

Start: directories and locks, node key, sockets (control answers from here on), relay and metadata, libp2p
listeners, configured shards, requests and events, dialler; then the state is READY. A part that ends or fails
ends the node, with the part's name in the log and exit code 70: the supervisor starts a whole node again, and
nothing is ever silently dead.
"""

from __future__ import annotations

import grp
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

import trio

from ipc_schema.config.kernel import KernelConfig
from ipc_schema.kernel.records import ProtocolHealth, ProtocolState
from ipc_schema.paths import kernel_directory, lock_path, socket_path
from ipc_schema.streams import new_instance
from ipc_schema.web import Site, standard_pages
from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.health import HealthMonitor
from kernel_proc.http import WebServer
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.control import control_routes, health_body, task_names
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.methods.discovery import discovery_routes
from kernel_proc.ipc.methods.node import node_routes
from kernel_proc.ipc.methods.peers import peer_routes
from kernel_proc.ipc.methods.relay import relay_routes
from kernel_proc.ipc.methods.streams import stream_routes
from kernel_proc.ipc.server import Endpoints, IpcServer
from kernel_proc.ipc.sockets import EndpointError
from kernel_proc.lag import EventLoopLag
from kernel_proc.lifeline import wait_for_parent
from kernel_proc.lock import DirectoryLock, LockedError, private_directory
from kernel_proc.logs import fields
from kernel_proc.metrics import Registry
from kernel_proc.network import Network
from kernel_proc.p2p.api import BadAddress
from kernel_proc.p2p.keys import NodeKey, NodeKeyError, load_or_create_node_key
from kernel_proc.peering import PeeringError
from kernel_proc.publishing import Publishing
from kernel_proc.sender import MessageSender
from kernel_proc.services import Services
from kernel_proc.shards import Shards
from kernel_proc.version import version

__all__ = ["EXIT_FAILED", "EXIT_OK", "Node", "StartError"]

log = logging.getLogger(__name__)

EXIT_OK: Final = 0
EXIT_FAILED: Final = 70
"""A part failed (EX_SOFTWARE): starting again may help."""


class StartError(Exception):
    """The node cannot start: a directory, lock, key, socket or port that its configuration asks for."""


class Node:
    """One kernel. `await Node(config).run()` returns the exit code; `StartError` when it cannot start."""

    def __init__(self, config: KernelConfig) -> None:
        self.config = config
        self.registry = Registry(config.metrics.prefix)
        self.publisher = EventPublisher(
            instance=new_instance(os.urandom),
            cluster=config.network.cluster,
            shard_count=config.network.shard_count,
            replay_bytes=config.replay_budget,
            registry=self.registry,
        )
        self._lag = EventLoopLag()
        self.registry.add_source(self._lag.samples)
        self.registry.counter("version", version=version()).add()
        self.registry.add_source(lambda: [("tasks", {}, len(task_names()))])
        self.shards = Shards(
            self.publisher,
            cluster=config.network.cluster,
            shard_count=config.network.shard_count,
            lease_ttl=config.lease_ttl,
            static=config.shards,
            registry=self.registry,
            changed=self._touch,
        )
        self._network: Network | None = None
        self._services: Services | None = None
        self._server: IpcServer | None = None
        self._web: WebServer | None = None
        self._started = 0.0
        self.health = HealthMonitor(
            self._lag,
            self._protocols,
            self.shards.health,
            self.publisher.publish_health,
        )
        self._stop = trio.Event()
        self._stop_reason = ""
        self._failed_part: str | None = None
        self._scope = trio.CancelScope()

    def _touch(self) -> None:
        self.health.touch()
        if self._network is not None:
            self._network.peering.shards_changed()

    def _protocols(self) -> list[ProtocolHealth]:
        return [
            *(self._network.protocols() if self._network else ()),
            *(self._services.protocols() if self._services else ()),
        ]

    def stop(self, reason: str) -> None:
        """End the node in good order."""
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    # --- life ---

    async def run(
        self,
        *,
        signals: bool = False,
        parent: int | None = None,
        stopping: Callable[[], object] = lambda: None,
    ) -> int:
        """Start, serve until stopped, end; returns the exit code. With `signals` TERM and INT stop it, with
        `parent` (a lifeline's descriptor) the parent's end does; `stopping` is called when that begins.

        Raises `StartError` with a text for the operator.
        """
        self._started = trio.current_time()
        with ExitStack() as stack:
            endpoints = self._claim(stack)
            key = self._key()
            network = self._network = self._make_network(key)
            sender = MessageSender(network.relay, self.shards) if network.relay is not None else None
            services = self._services = self._make_services(network, sender)
            server = self._server = self._make_server(network, services, sender, key)
            stack.callback(server.close)
            try:
                server.bind(endpoints)
            except EndpointError as error:
                raise StartError(str(error)) from error
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                if signals:
                    nursery.start_soon(self._watch_signals, name="signals")
                if parent is not None:
                    nursery.start_soon(self._watch_parent, parent, name="lifeline")
                nursery.start_soon(self._part, "ipc control", server.serve_control, name="ipc control")
                refused: StartError | None = None
                try:
                    await self._start(nursery, network, services, server)
                except StartError as error:  # out of the nursery it would come wrapped in a group
                    refused = error
                else:
                    await self._stop.wait()
                stopping()
                log.info("stopping", extra=fields(reason=self._stop_reason or "cannot start"))
                self.health.set_state(ProtocolState.SHUTTING_DOWN)
                self.health.check()
                nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        if self._failed_part is not None:
            return EXIT_FAILED
        log.info("stopped")
        return EXIT_OK

    async def _start(
        self, nursery: trio.Nursery, network: Network, services: Services, server: IpcServer
    ) -> None:
        def part(name: str, run: Callable[[], Awaitable[None]]) -> None:
            nursery.start_soon(self._part, name, run, name=name)

        await self._start_web(part)
        part("event loop lag", lambda: self._lag.run(self._touch))
        part("health", self.health.run)
        part("leases", self.shards.run)
        # All protocols before the listeners: identify must name them to the first peer that comes.
        if network.relay is not None:
            await nursery.start(self._started_part, "relay", network.relay.run, name="relay")
        part("metadata", network.metadata.run)
        services.mount()
        for name, run in services.parts():
            part(name, run)
        try:
            await nursery.start(self._started_part, "host", network.host.serve, name="host")
        except (OSError, BadAddress, ExceptionGroup) as error:
            # The host listens inside a nursery, and a nursery wraps what is raised in it.
            cause = next((leaf for leaf in _leaves(error) if isinstance(leaf, OSError | BadAddress)), None)
            if cause is None:
                raise
            raise self._cannot_listen(cause) from error
        self.shards.start(network.relay)
        network.peering.bound()
        try:
            await nursery.start(self._started_part, "peering", network.peering.run, name="peering")
        except (OSError, ExceptionGroup) as error:
            failed = next((leaf for leaf in _leaves(error) if isinstance(leaf, OSError)), None)
            if failed is None:
                raise
            raise StartError(
                f"cannot listen on listen-address {self.config.listen_address} "
                f"(discv5-udp-port {self.config.discovery.discv5_port}): {failed}"
            ) from error
        part("ipc", server.serve)
        if network.dialer.addresses:
            part("dialer", network.dialer.run)
        self.health.set_state(ProtocolState.READY)
        log.info(
            "ready",
            extra=fields(
                peer_id=network.host.peer_id,
                listen=",".join(network.host.listen_addresses),
                cluster=self.config.network.cluster,
                shards=self.config.network.shard_count or "static",
                events=server.events.endpoint,
                requests=server.requests.endpoint,
                control=server.control.endpoint,
            ),
        )

    async def _start_web(self, part: Callable[[str, Callable[[], Awaitable[None]]], None]) -> None:
        """Before the others, so that `/ready` says no while they start."""
        wanted = self.config.metrics
        if wanted.port is None:
            return
        pages = standard_pages(
            self.registry.exposition, lambda: health_body(self.health, version(), self._started)
        )
        web = WebServer(Site(pages), self.registry)
        try:
            await web.bind(wanted.address, wanted.port)
        except OSError as error:
            raise StartError(
                f"cannot listen on metrics-server-address {wanted.address} "
                f"(metrics-server-port {wanted.port}): {error}"
            ) from error
        self._web = web
        part("http", web.run)

    async def _part(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part that never ends by itself; the end of one is the end of the node."""
        try:
            await run()
        except Exception:  # whatever it is: it must end the node, in good order, and be told
            log.critical("a part failed, the node ends", exc_info=True, extra=fields(part=name))
        else:
            log.critical("a part ended, the node ends", extra=fields(part=name))
        self._failed_part = self._failed_part or name
        self._scope.cancel()

    async def _started_part(
        self, name: str, run: Callable[..., Awaitable[None]], *, task_status: Any
    ) -> None:
        """`_part` for nursery.start: what it raises before it has started goes to the starter."""
        status = _Status(task_status)
        try:
            await run(task_status=status)
        except Exception:
            if not status.is_started:
                raise
            log.critical("a part failed, the node ends", exc_info=True, extra=fields(part=name))
        else:
            log.critical("a part ended, the node ends", extra=fields(part=name))
        self._failed_part = self._failed_part or name
        self._scope.cancel()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
            async for number in received:
                self.stop(signal.Signals(number).name)

    async def _watch_parent(self, descriptor: int) -> None:
        await wait_for_parent(descriptor)
        self.stop("the parent process is gone")

    # --- making the parts ---

    def _claim(self, stack: ExitStack) -> Endpoints:
        """Directories and locks, in this order: nothing is touched that another node owns."""
        config = self.config
        data = Path(config.data_dir)
        sockets = kernel_directory(config.ipc_dir)
        group = self._group()
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(DirectoryLock.acquire(data / "kernel.lock", f"the data directory {data}"))
            private_directory(sockets, group)
            stack.enter_context(DirectoryLock.acquire(lock_path(sockets), f"the socket directory {sockets}"))
            # Absolute, because clients that are told the endpoint work in directories of their own.
            events, requests, control = map(_absolute, config.endpoints)
            for endpoint in (events, requests, control):
                path = socket_path(endpoint)
                if path is not None and path.parent != sockets.absolute():
                    private_directory(path.parent, group)
        except LockedError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"data-dir: {error.filename or data}: {error.strerror or error}") from error
        return Endpoints(events, requests, control, group=group is not None)

    def _group(self) -> int | None:
        name = self.config.ipc_group
        if name is None:
            return None
        if name.isdigit():
            return int(name)
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            raise StartError(f"ipc-group: there is no group {name!r}") from None

    def _key(self) -> NodeKey:
        config = self.config
        try:
            if config.node_key is not None:
                return NodeKey(config.node_key)
            return load_or_create_node_key(Path(config.data_dir) / "nodekey")
        except NodeKeyError as error:
            raise StartError(f"nodekey: {error}") from error
        except OSError as error:
            raise StartError(f"data-dir: {error.filename}: {error.strerror or error}") from error

    def _cannot_listen(self, error: Exception) -> StartError:
        config = self.config
        ports = f"tcp-port {config.tcp_port}"
        if config.websocket_port is not None:
            ports += f", websocket-port {config.websocket_port}"
        return StartError(f"cannot listen on listen-address {config.listen_address} ({ports}): {error}")

    def _make_network(self, key: NodeKey) -> Network:
        try:
            return Network(
                self.config,
                key,
                self.shards,
                self.registry,
                SystemRandom(),
                peer_changed=self.publisher.publish_peer,
                health_changed=self._touch,
            )
        except PeeringError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(f"data-dir: {error.filename}: {error.strerror or error}") from error

    def _make_services(self, network: Network, sender: MessageSender | None) -> Services:
        try:
            services = Services(
                self.config,
                network,
                self.shards,
                sender,
                self.registry,
                SystemRandom(),
                changed=self._touch,
            )
        except ArchiveConfigError as error:
            raise StartError(f"store: {error}") from error
        peering = network.peering
        services.records, services.own_record = peering.exchangeable, peering.own_record
        services.records_received = peering.exchanged
        peering.attach_exchange(services.peer_exchange_client)
        return services

    def _make_server(
        self, network: Network, services: Services, sender: MessageSender | None, key: NodeKey
    ) -> IpcServer:
        config = self.config
        info = config.network
        consumers = Consumers(lambda: f"anonymous-{secrets.token_hex(6)}", self.shards.holds_lease)
        publishing = Publishing(
            sender,
            self.shards,
            cluster=info.cluster,
            shard_count=info.shard_count,
            max_message_size=info.max_message_size,
            rln_required=info.rln_required,
            registry=self.registry,
        )
        host, relay = network.host, network.relay
        facts: dict[str, Callable[[], object]] = {
            "Version": version,
            "Metrics": self.registry.exposition,
            "MyMultiaddresses": lambda: list(host.listen_addresses),
            "MyENR": lambda: network.peering.enr.record.text,
            "MyPeerId": lambda: key.peer_id,
            "MyBoundPorts": lambda: network.bound_ports() | {"metrics": self._web.port if self._web else 0},
            "MaxMessageSize": lambda: info.max_message_size,
        }
        routes = {
            **stream_routes(
                shards=self.shards,
                publisher=self.publisher,
                consumers=consumers,
                network=info,
                server=f"logos-kernel/{version()}",
                in_flight=config.max_in_flight,
                replay_bytes=config.replay_budget,
                events_endpoint=self._endpoint_of_events,
            ),
            **relay_routes(publishing, relay, lambda: relay.subscriptions() if relay else []),
            **services.routes(publishing),
            **peer_routes(host, network.book, let_go=network.peering.manager.let_go),
            **discovery_routes(network.peering, host),
            **node_routes(health=self.health, registry=self.registry, info=facts, options=config.describe),
        }
        control = control_routes(
            health=self.health,
            version=version(),
            started=self._started,
            shutdown=self.stop,
            sockets=self._listening,
        )
        return IpcServer(
            publisher=self.publisher,
            consumers=consumers,
            routes=routes,
            control=control,
            registry=self.registry,
            max_message_size=info.max_message_size,
            in_flight=config.max_in_flight,
            allowed_uids=config.allowed_uids,
        )

    def _endpoint_of_events(self) -> str:
        return self._server.events.endpoint if self._server else ""

    def _listening(self) -> list[str]:
        network = list(self._network.host.listen_addresses) if self._network else []
        if self._web is not None:
            network.append(f"http://{self.config.metrics.address}:{self._web.port}")
        return [*(socket.endpoint for socket in self._server.sockets), *network] if self._server else network


def _absolute(endpoint: str) -> str:
    path = socket_path(endpoint)
    return endpoint if path is None else f"ipc://{path.absolute()}"


class _Status:
    """A task status that remembers whether `started` was called."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.is_started = False

    def started(self, value: object = None) -> None:
        self.is_started = True
        self._inner.started(value)


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions inside nested groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
