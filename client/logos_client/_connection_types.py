"""Settings, state and errors of a `RequestConnection`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.hello import HELLO_FIRST

#: Requests in flight until the server's hello gives its limit.
DEFAULT_IN_FLIGHT: Final = 64


class ConnectionState(Enum):
    """State of a `RequestConnection`; see the module docstring."""

    CONNECTING = "connecting"
    GREETING = "greeting"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(slots=True)
class ConnectionCounters:
    """`garbage`: frames from the server that are not a reply or event.

    `unmatched`: replies whose request is gone.
    """

    hellos: int = 0
    restarts: int = 0
    requests: int = 0
    garbage: int = 0
    unmatched: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """What a `RequestConnection` says and to whom it reports. None of the functions may block.

    `hello()` returns the body of the hello request and is called for each attempt; None for a control
    socket, which needs none. `on_hello(reply)` runs after each accepted hello and before any request goes
    out on that connection; an `IpcError` it raises counts as a refused hello. `on_down(reason)` runs when a
    ready connection is lost, or the server turns out to be another instance; `on_refused(error)` when a
    hello is refused. `on_event(frames)` gets the frames of an app's stream. `keepalive` names a request
    without effect, sent after `silence` seconds, so that a server that forgot us says so.
    """

    hello: Callable[[], Mapping[str, object]] | None = None
    on_hello: Callable[[Reply], None] | None = None
    on_down: Callable[[str], None] | None = None
    on_refused: Callable[[IpcError], None] | None = None
    on_event: Callable[[list[bytes]], None] | None = None
    keepalive: str | None = None
    silence: float = 4.0
    max_frame: int = -1


def number_in(reply: Reply, key: str, name: str, default: int) -> int:
    """Return a positive number of a hello's reply, from the map under `key`."""
    numbers = reply.body.get(key)
    value = numbers.get(name) if isinstance(numbers, dict) else None
    return value if isinstance(value, int) and value > 0 else default


def seconds(timeout: object) -> float:
    """Check a time limit in words of ours. A compiled function that takes a float would have mypyc's."""
    if not isinstance(timeout, int | float):
        raise TypeError(f"timeout: seconds, not {type(timeout).__name__}")
    return timeout


def late(method: str) -> IpcError:
    return IpcError(ErrorCode.DEADLINE_EXCEEDED, f"{method}: no answer in time")


def closed() -> IpcError:
    return IpcError(ErrorCode.NOT_READY, "the connection is closed", retriable=False)


def wants_hello(error: IpcError | None) -> bool:
    return error is not None and error.code is ErrorCode.NOT_READY and error.message == HELLO_FIRST


def fresh(error: IpcError) -> IpcError:
    """Copy an exception before raising it: one object raised in several tasks would collect all their
    tracebacks."""
    return IpcError(
        error.code,
        error.message,
        retriable=error.retriable,
        retry_after_ms=error.retry_after_ms,
        detail=error.detail,
    )
