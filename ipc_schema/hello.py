"""hello: the first request on every connection (SPEC.md, "hello")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Final

from ipc_schema import PROTOCOL_MIN, PROTOCOL_VERSION
from ipc_schema.body import REQUIRED, Bin16, Body, Range, Size, Uint
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.names import MAX_NAME, check_name

__all__ = [
    "HEARTBEAT_MS",
    "HELLO",
    "HELLO_FIRST",
    "HelloReply",
    "HelloRequest",
    "Limits",
    "NetworkInfo",
    "SeenPosition",
    "hello_first",
    "negotiate",
]

HELLO: Final = "hello"
HELLO_FIRST: Final = "hello first"
"""Text of the `not_ready` that answers any other request before hello."""
HEARTBEAT_MS: Final = 1000

_Version = Annotated[int, Range(0, 0xFFFF)]


def hello_first() -> IpcError:
    """Build the error for a request on a connection without a hello."""
    return IpcError(ErrorCode.NOT_READY, HELLO_FIRST)


def negotiate(offered: Sequence[int], supported: tuple[int, int] = (PROTOCOL_MIN, PROTOCOL_VERSION)) -> int:
    """Return the highest version in both ranges `[min, max]`.

    Raises `IpcError`: `unsupported_version` with `detail.supported` if there is none, `bad_request` if
    `offered` is not a range.
    """
    if len(offered) < 2 or offered[0] > offered[1]:
        raise IpcError(ErrorCode.BAD_REQUEST, f"hello: protocol: {list(offered)} is not [min, max]")
    version = min(offered[1], supported[1])
    if version < max(offered[0], supported[0]):
        raise IpcError(
            ErrorCode.UNSUPPORTED_VERSION,
            f"protocol {offered[0]} to {offered[1]} is offered, {supported[0]} to {supported[1]} spoken here",
            detail={"supported": list(supported)},
        )
    return version


class SeenPosition(Body):
    """The last event that an app has received of its stream, and the instance of the server it came from."""

    stream: Bin16
    seq: Uint
    instance: Bin16


class HelloRequest(Body):
    """`kind`: `mapi`, `tool` or `app`. `takeover`, `credit` and `seen` are for the Messaging API alone."""

    kind: Annotated[str, Size(32, 1)]
    protocol: tuple[_Version, _Version] = field(default=(PROTOCOL_MIN, PROTOCOL_VERSION), metadata=REQUIRED)
    name: Annotated[str, Size(MAX_NAME)] | None = None
    features: Annotated[tuple[Annotated[str, Size(64)], ...], Size(64)] = ()
    takeover: bool = False
    credit: Uint = 0
    seen: SeenPosition | None = None

    def check(self) -> int:
        """Check the name and return the version to speak. Raises `IpcError`."""
        if self.name is not None:
            check_name(self.name)
        return negotiate(self.protocol)


class NetworkInfo(Body):
    """The network that a kernel is on. `shard_count` 0: static sharding; `preset` may be empty."""

    cluster: Annotated[int, Range(0, 0xFFFF)]
    shard_count: Annotated[int, Range(0, 1024)]
    max_message_size: Uint
    preset: str = ""
    rln_required: bool = False


class Limits(Body):
    """Limits common to both servers: requests in flight per consumer, bytes of a body, bytes of a blob."""

    in_flight: Uint
    body_bytes: Uint
    blob_bytes: Uint


class HelloReply(Body):
    """The common part of both servers' reply.

    Each adds its own: `kernel.methods.KernelHello`, `mapi.methods.MapiHello`.
    """

    protocol: _Version
    instance: Bin16
    server: str
    features: tuple[str, ...] = ()
    limits: Limits
    heartbeat_ms: Annotated[int, Range(1, 3_600_000)] = HEARTBEAT_MS
    network: NetworkInfo
