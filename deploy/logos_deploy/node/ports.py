"""Ports that a node is to listen on and another program has."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from ipc_schema.config.options import ConfigError, PortUse

__all__ = ["refuse_taken_ports"]


def refuse_taken_ports(uses: Iterable[PortUse]) -> None:
    """Another program on the port: better said now, by the key, than in a log. Raises `ConfigError`."""
    for use in uses:
        family = socket.AF_INET6 if ":" in use.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((use.address, use.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    why = f"port {use.port} on {use.address} is in use by another program (0 = automatic)"
                else:
                    why = f"cannot listen on {use.address} port {use.port}: {error.strerror}"
                raise ConfigError(use.key, why) from None
