"""The node: puts the parts together, starts them in order and ends with them.

Start-up: directories and locks, node key, sockets (control answers from here on), relay and metadata, libp2p
listeners, configured shards, requests and events, dialler; then the state is READY. If a part ends or fails,
the node ends, with the part's name in the log and exit code 70: the supervisor restarts the whole node, and
no part is ever silently dead.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import SystemRandom
from signal import Signals

import trio

from ipc_schema.config.kernel import KernelConfig
from ipc_schema.kernel.records import ProtocolHealth, ProtocolState
from ipc_schema.streams import new_instance
from kernel_proc.archive.api import ArchiveConfigError
from kernel_proc.build import BUILD
from kernel_proc.health import HealthMonitor
from kernel_proc.ipc.consumers import Consumers
from kernel_proc.ipc.control import control_routes, task_names
from kernel_proc.ipc.events import EventPublisher
from kernel_proc.ipc.methods.discovery import discovery_routes
from kernel_proc.ipc.methods.node import node_routes
from kernel_proc.ipc.methods.peers import peer_routes
from kernel_proc.ipc.methods.relay import relay_routes
from kernel_proc.ipc.methods.streams import stream_routes
from kernel_proc.ipc.server import IpcServer, IpcSettings
from kernel_proc.lag import EventLoopLag
from kernel_proc.metrics import Registry
from kernel_proc.network import Network
from kernel_proc.p2p.api import BadAddress
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.tls import ServerCertificate
from kernel_proc.peering.settings import PeeringError
from kernel_proc.publishing import Publishing
from kernel_proc.sender import MessageSender
from kernel_proc.services import Services
from kernel_proc.shards import Shards
from kernel_proc.startup import claim_directories, node_key
from kernel_proc.supervision import SupervisedParts, leaf
from logos_process import logs
from logos_process.exits import ExitCode, StartError
from logos_process.host_clock import boot_ns
from logos_process.logs import fields
from logos_process.service_manager import ServiceManager
from logos_process.stopping import stop_signals
from logos_process.version import version

log = logging.getLogger(__name__)


async def _stay_alive(manager: ServiceManager) -> None:
    """Show that the event loop turns. One that hangs is silent, and the service manager restarts us."""
    while manager.interval is not None:
        manager.alive()
        await trio.sleep(manager.interval)


class Node:
    """One kernel. `await Node(config).run()` returns the exit code; raise `StartError` if it cannot start."""

    def __init__(self, config: KernelConfig) -> None:
        self.config = config
        self.registry = Registry()
        self.publisher = EventPublisher(
            steady_ns=boot_ns,
            instance=new_instance(os.urandom),
            cluster=config.network.cluster,
            shard_count=config.network.shard_count,
            replay_bytes=config.sockets.replay_budget,
            registry=self.registry,
        )
        self._lag = EventLoopLag()
        self.registry.add_source(self._lag.samples)
        self.registry.add_source(
            lambda: [
                ("version", {"version": version()}, 1),
                ("tasks", {}, len(task_names())),
                ("log_lines_dropped", {}, logs.dropped()),
            ]
        )
        self.shards = Shards(
            self.publisher,
            cluster=config.network.cluster,
            shard_count=config.network.shard_count,
            lease_ttl=config.sockets.lease_ttl,
            static=config.shards,
            registry=self.registry,
            changed=self._touch,
        )
        self._network: Network | None = None
        self._services: Services | None = None
        self._server: IpcServer | None = None
        self._started = 0.0
        self.health = HealthMonitor(
            self._lag,
            self._protocols,
            self.shards.health,
            self.publisher.publish_health,
        )
        self._stop = trio.Event()
        self._stop_reason = ""

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
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    # --- lifetime ---

    async def run(
        self,
        *,
        signals: bool = False,
        stopping: Callable[[], object] = lambda: None,
        manager: ServiceManager | None = None,
    ) -> int:
        """Start, serve until stopped, and end. Return the exit code.

        With `signals`, the process's stop signals stop it; `stopping` is called when the shutdown begins. The
        service manager is notified when the node is ready, alive and stopping.
        Raise `StartError`.
        """
        self._started = trio.current_time()
        manager = manager or ServiceManager()
        with ExitStack() as stack:
            endpoints = claim_directories(self.config, stack)
            key = node_key(self.config)
            network = self._network = self._make_network(key)
            sender = MessageSender(network.relay, self.shards) if network.relay is not None else None
            services = self._services = self._make_services(network, sender)
            server = self._server = self._make_server(network, services, sender, key)
            stack.callback(server.close)
            server.bind(endpoints)
            async with trio.open_nursery() as nursery:
                parts = SupervisedParts(nursery)
                if signals:
                    nursery.start_soon(self._watch_signals, name="signals")
                parts.add("ipc control", server.serve_control)
                refused: StartError | None = None
                try:
                    await self._start(parts, network, services, server)
                    manager.ready(f"ready as {network.host.peer_id}")
                    if manager.interval is not None:
                        parts.add("watchdog", lambda: _stay_alive(manager))
                    await self._stop.wait()
                except StartError as error:  # outside the nursery it would be wrapped in a group
                    refused = error
                finally:
                    # Also after a part has failed: a hanging shutdown would look like a live node.
                    stopping()
                    manager.stopping()
                    reason = self._stop_reason or ("a part ended" if parts.failed else "cannot start")
                    log.info("stopping", extra=fields(reason=reason))
                    self.health.set_state(ProtocolState.SHUTTING_DOWN)
                    self.health.check()
                nursery.cancel_scope.cancel()
        if refused is not None:
            raise refused
        if parts.failed is not None:
            return ExitCode.FAILED
        log.info("stopped")
        return ExitCode.OK

    async def _start(
        self, parts: SupervisedParts, network: Network, services: Services, server: IpcServer
    ) -> None:
        parts.add("event loop lag", lambda: self._lag.run(self._touch))
        parts.add("health", self.health.run)
        parts.add("leases", self.shards.run)
        # Mount all protocols before listening: identify must list them for the first peer.
        if network.relay is not None:
            await parts.start("relay", network.relay.run)
        parts.add("metadata", network.metadata.run)
        services.mount()
        for name, run in services.parts():
            parts.add(name, run)
        config = self.config
        websocket = "" if config.websocket_port is None else f", websocket-port {config.websocket_port}"
        with self._binding(f"tcp-port {config.tcp_port}{websocket}"):
            await parts.start("host", network.host.serve)
        self.shards.start(network.relay)
        network.peering.bound()
        with self._binding(f"discv5-udp-port {config.discovery.discv5_port}"):
            await parts.start("peering", network.peering.run)
        parts.add("ipc", server.serve)
        if network.dialer.addresses:
            parts.add("dialer", network.dialer.run)
        self.health.set_state(ProtocolState.READY)
        log.info(
            "ready",
            extra=fields(
                peer_id=network.host.peer_id,
                listen=",".join(network.host.listen_addresses),
                cluster=self.config.network.cluster,
                shards=self.config.network.shard_count or "static",
                events=server.endpoints.events,
                requests=server.endpoints.requests,
                control=server.endpoints.control,
            ),
        )

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(*stop_signals()) as received:
            async for number in received:
                self.stop(Signals(number).name)

    # --- construction ---

    @contextmanager
    def _binding(self, ports: str) -> Iterator[None]:
        """Raise `StartError` for a part that cannot listen: inside a nursery, which wraps exceptions in a
        group."""
        try:
            yield
        except (OSError, BadAddress, ExceptionGroup) as error:
            cause = leaf(error, OSError, BadAddress)
            if cause is None:
                raise
            text = f"cannot listen on listen-address {self.config.listen_address} ({ports}): {cause}"
            raise StartError(text, StartError.code_of(getattr(cause, "errno", errno.EINVAL))) from error

    def _certificate(self) -> ServerCertificate | None:
        files = self.config.websocket_tls
        if files is None:
            return None
        try:
            certificate = ServerCertificate(Path(files.certificate), Path(files.key))
        except (OSError, ValueError) as error:
            raise StartError(f"websocket-secure-support: {error}") from error
        self.registry.add_source(lambda: [("websocket_certificate_expiry_seconds", {}, certificate.expires)])
        return certificate

    def _make_network(self, key: NodeKey) -> Network:
        try:
            return Network(
                self.config,
                key,
                self.shards,
                self.registry,
                SystemRandom(),
                certificate=self._certificate(),
                peer_changed=self.publisher.publish_peer,
                health_changed=self._touch,
            )
        except PeeringError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError.of(f"data-dir: {error.filename}", error) from error

    def _make_services(self, network: Network, sender: MessageSender | None) -> Services:
        try:
            return Services(
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

    def _make_server(
        self, network: Network, services: Services, sender: MessageSender | None, key: NodeKey
    ) -> IpcServer:
        config = self.config
        info = config.network
        consumers = Consumers(lambda: f"anonymous-{secrets.token_hex(6)}", self.shards.holds_lease)
        publishing = Publishing(sender, self.shards, info, self.registry, no_peers=network.no_peers_text)
        host, relay = network.host, network.relay
        facts: dict[str, Callable[[], object]] = {
            "Version": version,
            "Build": lambda: BUILD,
            "Metrics": self.registry.collect,
            "MyMultiaddresses": lambda: list(host.listen_addresses),
            "MyENR": lambda: network.peering.own.enr.record.text,
            "MyPeerId": lambda: key.peer_id,
            "MyBoundPorts": network.bound_ports,
            "MaxMessageSize": lambda: info.max_message_size,
            "Reachability": network.peering.reachability,
        }
        routes = {
            **stream_routes(
                shards=self.shards,
                publisher=self.publisher,
                consumers=consumers,
                network=info,
                server=f"logos-kernel/{version()}",
                in_flight=config.max_in_flight,
                replay_bytes=config.sockets.replay_budget,
                events_endpoint=self._endpoint_of_events,
            ),
            **relay_routes(publishing, relay),
            **services.routes(publishing),
            **peer_routes(host, network.book, postpone=network.peering.manager.postpone),
            **discovery_routes(network.peering, host),
            **node_routes(health=self.health, registry=self.registry, info=facts, options=config.describe),
        }
        control = control_routes(
            health=self.health,
            version=version(),
            started=self._started,
            shutdown=self.stop,
            sockets=self._listening,
            metrics=self.registry.report,
        )
        settings = IpcSettings(info.max_message_size, config.max_in_flight, config.allowed_uids)
        return IpcServer(self.publisher, consumers, routes, control, self.registry, settings)

    def _endpoint_of_events(self) -> str:
        return self._server.endpoints.events if self._server else ""

    def _listening(self) -> list[str]:
        network = list(self._network.host.listen_addresses) if self._network else []
        return [*(door.endpoint for door in self._server.doors), *network] if self._server else network
