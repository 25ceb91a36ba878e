"""Argument checks that need no server: a TypeError or ValueError that says what is expected."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.paths import (
    KernelEndpoints,
    MapiEndpoints,
    kernel_endpoints,
    mapi_endpoints,
    socket_endpoint,
    socket_path,
)

_SCHEMES: Final = ("ipc", "tcp")
_SOCKETS: Final = {
    *(("kernel", name) for name in KernelEndpoints._fields),
    *(("mapi", name) for name in MapiEndpoints._fields),
}


def messaging_endpoint(where: object) -> str:
    """Return the apps' endpoint of a node's run directory, or the endpoint itself."""
    if isinstance(where, KernelEndpoints | MapiEndpoints):
        raise TypeError(
            f"{type(where).__name__} are several endpoints: an app connects to mapi_endpoints(…).apps"
        )
    text = _place(where, "an endpoint (ipc://…, tcp://…) or a node's run directory")
    endpoint = text if "://" in text else mapi_endpoints(text).apps
    return _checked(endpoint, ("mapi", "apps"), "apps connect to")


def control_endpoint(where: object) -> str:
    """Check the endpoint of a control socket."""
    text = _place(where, "an endpoint (ipc://…, tcp://…)")
    if "://" not in text:
        raise ValueError(f"{text!r} is not an endpoint: kernel_endpoints(…) and mapi_endpoints(…) have them")
    return _checked(text, None, "control sockets are kernel/control and")


def kernel_at(where: object) -> KernelEndpoints:
    """Return the endpoints of a kernel, as given or below a run directory."""
    if isinstance(where, KernelEndpoints):
        _checked(where.requests, ("kernel", "requests"), "kernel clients connect to")
        return where
    if isinstance(where, MapiEndpoints):
        raise TypeError("these are endpoints of a Messaging API: a kernel's are kernel_endpoints(…)")
    text = _place(where, "a node's run directory, or KernelEndpoints")
    if "://" in text:
        raise ValueError(
            f"{text}: a kernel has several endpoints: name its run directory, or KernelEndpoints"
        )
    return kernel_endpoints(text)


def _place(where: object, right: str) -> str:
    if not isinstance(where, str | Path):
        raise TypeError(f"connect to {right}, not {type(where).__name__}")
    text = os.fspath(where)
    if not text:
        raise ValueError(f"connect to {right}; this is empty")
    return text


def _checked(endpoint: str, right: tuple[str, str] | None, verb: str) -> str:
    """Return the endpoint unless it is a different socket of a node than `right` (None: a control socket)."""
    scheme, _, address = endpoint.partition("://")
    if scheme not in _SCHEMES or not address:
        raise ValueError(f"{endpoint}: an endpoint is ipc://… or tcp://…")
    path = socket_path(endpoint)
    if path is None:
        return endpoint
    socket_endpoint(path)  # its length
    tail = (path.parent.name, path.name)
    wrong = tail[1] != "control" if right is None else tail != right
    if tail in _SOCKETS and wrong:
        wanted = "/".join(right or ("mapi", "control"))
        raise ValueError(f"{endpoint} is the socket {'/'.join(tail)} of a node; {verb} {wanted}")
    return endpoint


def need_server(server: object, wanted: str, what: str) -> None:
    """Check that the right program answered the hello. Raises `IpcError` (`bad_request`)."""
    other = {"logos-kernel": "a kernel", "logos-mapi": "a Messaging API"}
    program = server.partition("/")[0] if isinstance(server, str) else ""
    if program in other and program != wanted:
        raise IpcError(ErrorCode.BAD_REQUEST, f"this is {other[program]} ({server}), not {what}")


def as_text(what: str, value: object) -> str:
    """Check a text."""
    if not isinstance(value, str):
        raise TypeError(f"{what}: str, not {type(value).__name__}")
    return value


def as_bytes(what: str, value: object, size: int | None = None) -> bytes:
    """Return the bytes of a bytes-like object; refuse a text, whose encoding only the app knows."""
    if not isinstance(value, bytes | bytearray | memoryview):
        hint = "; text.encode() makes bytes of it" if isinstance(value, str) else ""
        raise TypeError(f"{what}: bytes, not {type(value).__name__}{hint}")
    data = bytes(value)
    if size is not None and len(data) != size:
        raise ValueError(f"{what}: {size} bytes, not {len(data)}")
    return data


def as_topics(topics: str | Iterable[str]) -> list[str]:
    """Return content topics; a single text is one topic, not a sequence of characters."""
    return [topics] if isinstance(topics, str) else [as_text("content topic", topic) for topic in topics]


def history_ms(seconds: float) -> int:
    """Convert a look-back time in seconds to milliseconds."""
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"history: seconds from 0 on, not {seconds!r}")
    return int(seconds * 1000)
