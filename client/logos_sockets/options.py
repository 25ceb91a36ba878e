"""Create ZeroMQ sockets with the options that the contract requires (SPEC.md, "Transport")."""

from __future__ import annotations

from typing import Final

import zmq

BLOB_SLACK: Final = 16 << 10
"""How much larger a blob may be than the largest message."""
PUBLISHER_MEMORY: Final = 32 << 20
"""Most bytes queued in the process for one subscriber that does not read."""

#: Handshake timeout and reconnect delays (all ms).
_HANDSHAKE_MS: Final = 5_000
_RECONNECT_MS: Final = 50
_RECONNECT_MAX_MS: Final = 250
#: Not the -1 that libzmq has for it: that ends the pipe of a lost connection, as IMMEDIATE does.
_NEVER_MS: Final = (1 << 31) - 1
#: Not 0: libzmq 4.3.5 aborts the process (session_base.cpp, `clean_pipes`) if it learns in one go that a
#: socket was closed without linger and that its server died in the middle of a message to it.
DEALER_LINGER_MS: Final = 100
_MAX_SUBSCRIPTION: Final = 4_096


def open_dealer(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str | None = None,
    *,
    max_frame: int = -1,
    hwm: int = 1_000,
) -> zmq.Socket[bytes]:
    """Open a DEALER for requests, which does not reconnect.

    libzmq would deliver requests for a server that is gone, stale, to its successor; its option against this,
    IMMEDIATE, is dangerous (SPEC.md §1).
    """
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, DEALER_LINGER_MS)
    return _prepare(socket, endpoint, max_frame, hwm, reconnect_ms=_NEVER_MS)


def open_subscriber(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str | None = None,
    *,
    max_frame: int = -1,
    hwm: int = 1_000,
) -> zmq.Socket[bytes]:
    """Open a SUB for events. SNDHWM 0: with a bound it drops its own subscriptions on a reconnect."""
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    _prepare(socket, None, max_frame, hwm)
    socket.setsockopt(zmq.SNDHWM, 0)
    if endpoint is not None:
        socket.connect(endpoint)
    return socket


def open_router(
    context: zmq.Context[zmq.Socket[bytes]], *, max_frame: int = -1, hwm: int = 1_000, linger_ms: int = 1_000
) -> zmq.Socket[bytes]:
    """Open a ROUTER, not yet bound.

    MANDATORY: sending to a peer that left, or that does not read, raises instead of dropping.
    """
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
    socket.setsockopt(zmq.LINGER, linger_ms)
    return _prepare(socket, None, max_frame, hwm)


def hwm_for(max_message_size: int) -> int:
    """Return a publisher's high-water mark, which counts messages: as many as fit in `PUBLISHER_MEMORY`."""
    return max(16, PUBLISHER_MEMORY // max(1, max_message_size))


def open_publisher(
    context: zmq.Context[zmq.Socket[bytes]], max_message_size: int, *, linger_ms: int = 1_000
) -> zmq.Socket[bytes]:
    """Open an XPUB, not yet bound.

    It reports every subscription (VERBOSE) and drops for readers that hang.
    """
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.XPUB_VERBOSE, 1)
    socket.setsockopt(zmq.LINGER, linger_ms)
    return _prepare(socket, None, _MAX_SUBSCRIPTION, hwm_for(max_message_size))


def _prepare(
    socket: zmq.Socket[bytes],
    endpoint: str | None,
    max_frame: int,
    hwm: int,
    reconnect_ms: int = _RECONNECT_MS,
) -> zmq.Socket[bytes]:
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, reconnect_ms)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    if max_frame >= 0:
        socket.setsockopt(zmq.MAXMSGSIZE, max_frame)
    if endpoint is not None:
        socket.connect(endpoint)
    return socket
