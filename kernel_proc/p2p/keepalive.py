"""Keepalive for all connections of a host, in one task."""

from __future__ import annotations

import logging

import trio

from kernel_proc.p2p import ping
from kernel_proc.p2p._errors import ConnectionEnded, NegotiationFailed
from kernel_proc.p2p.api import StreamClosed
from kernel_proc.p2p.connections import Connections, HostConnection
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.multistream import select_one_of

log = logging.getLogger(__name__)


class Keepalive:
    """Tick each muxer, and ping over a stream where the muxer has no ping frame."""

    def __init__(self, connections: Connections, limits: HostLimits) -> None:
        self._connections = connections
        self._limits = limits

    async def run(self) -> None:
        """Tick until cancelled."""
        period = min(1.0, self._limits.ping_interval / 4, self._limits.ping_timeout / 4)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(period)
                now = trio.current_time()
                for connection in self._connections.all():
                    try:
                        due = connection.muxer.tick(now)
                    except Exception as error:  # one connection's failure must not end the keepalive of all
                        self._connections.failed(connection, error)
                        continue
                    if due and not connection.pinging:
                        nursery.start_soon(self._ping, connection)

    async def _ping(self, connection: HostConnection) -> None:
        """Run one round of the ping protocol. Any response is a sign of life; `tick` decides."""
        connection.pinging = True
        try:
            with trio.move_on_after(self._limits.ping_timeout):
                stream = connection.muxer.open_stream()
                try:
                    await select_one_of(stream, (ping.PROTOCOL,))
                    await ping.ask(stream)
                finally:
                    stream.finish()
        except (StreamClosed, ConnectionEnded, NegotiationFailed) as error:
            log.debug("ping of %s: %s", connection.info.peer_id, error)  # a refusal is a sign of life too
        except Exception as error:
            self._connections.failed(connection, error)
        finally:
            connection.pinging = False
