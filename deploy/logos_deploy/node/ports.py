"""Detect ports of a node that another program uses."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from ipc_schema.config.options import ConfigError, PortUse


class PortInUseError(ConfigError):
    """Another program has a configured port: unlike the rest of a configuration it may be free later."""


def refuse_taken_ports(uses: Iterable[PortUse], *, udp: bool = False) -> None:
    """Refuse a TCP (or UDP) port that is in use: an error that names the key is better than a log line.

    Raises `PortInUseError`, or `ConfigError` for an address that cannot be bound.
    """
    for use in uses:
        family = socket.AF_INET6 if ":" in use.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
            if not udp:  # there it would let us share the port with another socket (socket(7))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((use.address, use.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    why = f"port {use.port} on {use.address} is in use by another program (0 = automatic)"
                    raise PortInUseError(use.key, why) from None
                why = f"cannot listen on {use.address} port {use.port}: {error.strerror}"
                raise ConfigError(use.key, why) from None
