"""Which endpoints a process may bind."""

from __future__ import annotations

import ipaddress
import os
from typing import Protocol

from ipc_schema.paths import MAX_SOCKET_PATH, socket_path
from logos_process.exits import StartError


class _Door(Protocol):
    """The part of `logos_sockets.Door` used here: this package does not depend on ZeroMQ."""

    def open(self, endpoint: str, *, group: bool) -> str: ...


def bind(door: _Door, endpoint: str, *, group: bool = False) -> str:
    """Open a socket's door and return the actual endpoint (a tcp port `*` filled in). With `group`, the
    directory's group may connect too. Raise `StartError`."""
    endpoint = bindable(endpoint)
    try:
        return door.open(endpoint, group=group)
    except OSError as error:
        code = StartError.code_of(error.errno)
        raise StartError(f"cannot bind {endpoint}: {error.strerror or error}", code) from error


def bindable(endpoint: str) -> str:
    """Return the endpoint to bind, with an absolute ipc path, because clients run in directories of their
    own.

    Raise `StartError` for tcp outside loopback, a path too long for a Unix socket, and any other transport.
    """
    scheme, _, rest = endpoint.partition("://")
    if scheme == "tcp":
        host = rest.rpartition(":")[0].strip("[]")
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise StartError(
                f"{endpoint}: tcp is supported on loopback only, because there is no authentication"
            )
        return endpoint
    path = socket_path(endpoint)
    if path is None:
        raise StartError(f"{endpoint}: only ipc:// and tcp:// on loopback are supported")
    absolute = path.absolute()
    size = len(os.fsencode(absolute))
    if size > MAX_SOCKET_PATH:
        raise StartError(
            f"the socket path {absolute} has {size} bytes, the maximum is {MAX_SOCKET_PATH}: "
            "shorten it with ipc-dir"
        )
    return f"ipc://{absolute}"
