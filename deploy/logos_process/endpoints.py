"""Which endpoints a process may bind, and the umask under which a socket file is made."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from typing import Any, Final, Protocol

from ipc_schema.paths import MAX_SOCKET_PATH, socket_path
from logos_process.exits import StartError

__all__ = ["bind", "bindable", "socket_umask"]

_LAST_ENDPOINT: Final = 32  # ZMQ_LAST_ENDPOINT of zmq.h


class _Socket(Protocol):
    """What is used of a ZeroMQ socket: this package has no ZeroMQ."""

    def bind(self, addr: str) -> Any: ...
    def get(self, option: int) -> Any: ...


def bind(socket: _Socket, endpoint: str, *, group: bool = False) -> str:
    """Bind a ZeroMQ socket and return the real endpoint (a tcp port `*` filled in). With `group` the group of
    the directory reaches it too. Raises `StartError`."""
    endpoint = bindable(endpoint)
    try:
        with socket_umask(group=group):
            socket.bind(endpoint)
    except Exception as error:  # ZMQError: an errno and its text, but not an OSError
        reason = getattr(error, "strerror", None) or error
        code = StartError.code_of(getattr(error, "errno", None))
        raise StartError(f"cannot bind {endpoint}: {reason}", code) from error
    bound = socket.get(_LAST_ENDPOINT)
    return bound.rstrip(b"\0").decode() if isinstance(bound, bytes) else str(bound)


def bindable(endpoint: str) -> str:
    """The endpoint as it is bound, an ipc path made absolute, since clients that are given it work in
    directories of their own. Raises `StartError` for tcp outside loopback, a path too long for a Unix socket,
    and any other transport."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "tcp":
        host = rest.rpartition(":")[0].strip("[]")
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise StartError(
                f"{endpoint}: tcp is possible on loopback only, since there is no authentication"
            )
        return endpoint
    path = socket_path(endpoint)
    if path is None:
        raise StartError(f"{endpoint}: only ipc:// and tcp:// on loopback are possible")
    absolute = path.absolute()
    size = len(os.fsencode(absolute))
    if size > MAX_SOCKET_PATH:
        raise StartError(
            f"the socket path {absolute} has {size} bytes, at most {MAX_SOCKET_PATH} are possible: "
            "shorten it with ipc-dir"
        )
    return f"ipc://{absolute}"


@contextlib.contextmanager
def socket_umask(*, group: bool = False) -> Iterator[None]:
    """Bind inside this: the socket file is 0700 (0770 for a group) from its first moment, whereas a chmod
    after the bind would leave a moment in which anyone may connect."""
    before = os.umask(0o007 if group else 0o077)
    try:
        yield
    finally:
        os.umask(before)
