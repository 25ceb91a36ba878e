"""Everything this package raises for what happens outside of it.

    LogosError                      `code` (of the contract), `retriable`, `retry_after_ms`, `detail`
    ├── RequestError                the request is at fault: the same one will not succeed later
    │   ├── BadRequestError         bad_request: malformed or refused input
    │   ├── UnknownMethodError      unknown_method
    │   ├── UnsupportedVersionError unsupported_version: `detail["supported"]`
    │   ├── UnauthorisedError       unauthorised: not with this user id
    │   ├── TooLargeError           too_large
    │   ├── ConflictError           conflict: the name, id or stream is already in use
    │   └── RlnRequiredError        rln_required: the network takes only messages with an RLN proof
    ├── TemporaryError              the same request may succeed later
    │   ├── BusyError               busy: a bound is reached; see `retry_after_ms`
    │   ├── NotReadyError           not_ready: the server, or a part of it, is not up
    │   ├── ResyncingError          resyncing
    │   ├── NoPeersError            no_peers
    │   ├── RateLimitedError        rate_limited
    │   └── InternalError           internal: the server's fault; its log has `detail["reference"]`
    ├── DeadlineError               deadline_exceeded; also a TimeoutError
    ├── PeerRestartedError          peer_restarted: the connection was lost during the request, its
    │                               outcome is unknown; also a ConnectionError
    ├── StreamError                 a stream does not have what was requested
    │   ├── TrimmedError            trimmed: the range is gone; `detail["first"]` is the oldest seq left
    │   └── EpochChangedError       epoch_changed: the stream restarted
    └── ClosedError                 this client is closed
        └── ForkedError             this client belongs to the parent of this forked process

Wrong arguments that no server needs to see (a negative time limit, say) raise the usual ValueError or
TypeError.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError

__all__ = [
    "BadRequestError",
    "BusyError",
    "ClosedError",
    "ConflictError",
    "DeadlineError",
    "EpochChangedError",
    "ForkedError",
    "InternalError",
    "LogosError",
    "NoPeersError",
    "NotReadyError",
    "PeerRestartedError",
    "RateLimitedError",
    "RequestError",
    "ResyncingError",
    "RlnRequiredError",
    "StreamError",
    "TemporaryError",
    "TooLargeError",
    "TrimmedError",
    "UnauthorisedError",
    "UnknownMethodError",
    "UnsupportedVersionError",
]


class LogosError(Exception):
    """Root of this package's errors.

    `code`: one of the contract's closed list. `retriable`: whether the same request may succeed later.
    `retry_after_ms`: when, if the server says so. `detail`: further data, possibly empty.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retriable: bool | None = None,
        retry_after_ms: int | None = None,
        detail: dict[str, object] | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retriable: bool = code.retriable if retriable is None else retriable
        self.retry_after_ms = retry_after_ms
        self.detail: dict[str, object] = detail or {}

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class RequestError(LogosError):
    """The request itself is invalid: repeating it does not help."""


class BadRequestError(RequestError):
    """Malformed or refused input; the message says which."""


class UnknownMethodError(RequestError):
    """The server has no such method: it is older than this client, or another kind of server."""


class UnsupportedVersionError(RequestError):
    """No common version of the protocol."""


class UnauthorisedError(RequestError):
    """This user id is not allowed to do that."""


class TooLargeError(RequestError):
    """More bytes than the network, or the server, accepts."""


class ConflictError(RequestError):
    """The name belongs to another live app, the request id was used for another message, or we were taken
    over."""


class RlnRequiredError(RequestError):
    """This network takes only messages with an RLN proof."""


class TemporaryError(LogosError):
    """The same request may succeed later."""


class BusyError(TemporaryError):
    """A bound of the server is reached."""


class NotReadyError(TemporaryError):
    """No server, or one that is not up yet."""


class ResyncingError(TemporaryError):
    """The server is catching up with the one below it."""


class NoPeersError(TemporaryError):
    """Accepted and valid, but there is no peer to send it to."""


class RateLimitedError(TemporaryError):
    """More than the network or the server allows in this period."""


class InternalError(TemporaryError):
    """A bug or failure of the server."""


class DeadlineError(LogosError, TimeoutError):
    """Not in time. The request may still have been carried out, unless the server says otherwise."""


class PeerRestartedError(LogosError, ConnectionError):
    """The connection was lost, or the server restarted, during the request: its outcome is unknown."""


class StreamError(LogosError):
    """A stream does not have what was requested."""


class TrimmedError(StreamError):
    """The range is gone."""


class EpochChangedError(StreamError):
    """The stream restarted."""


class ClosedError(LogosError):
    """This client is closed: nothing is sent or received any more. Its code is `not_ready`."""

    def __init__(self, message: str = "the client is closed") -> None:
        super().__init__(ErrorCode.NOT_READY, message, retriable=False)


class ForkedError(ClosedError):
    """This client was created before a fork, in the parent: the child must connect a client of its own."""

    def __init__(self, owner: int) -> None:
        super().__init__(
            f"this client belongs to process {owner}, of which this one is a fork: connect again after a fork"
        )


_BY_CODE: Final[dict[ErrorCode, type[LogosError]]] = {
    ErrorCode.BAD_REQUEST: BadRequestError,
    ErrorCode.UNKNOWN_METHOD: UnknownMethodError,
    ErrorCode.UNSUPPORTED_VERSION: UnsupportedVersionError,
    ErrorCode.UNAUTHORISED: UnauthorisedError,
    ErrorCode.TOO_LARGE: TooLargeError,
    ErrorCode.CONFLICT: ConflictError,
    ErrorCode.RLN_REQUIRED: RlnRequiredError,
    ErrorCode.BUSY: BusyError,
    ErrorCode.NOT_READY: NotReadyError,
    ErrorCode.RESYNCING: ResyncingError,
    ErrorCode.NO_PEERS: NoPeersError,
    ErrorCode.RATE_LIMITED: RateLimitedError,
    ErrorCode.INTERNAL: InternalError,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineError,
    ErrorCode.PEER_RESTARTED: PeerRestartedError,
    ErrorCode.TRIMMED: TrimmedError,
    ErrorCode.EPOCH_CHANGED: EpochChangedError,
}


def from_ipc(error: IpcError) -> LogosError:
    """Convert an error of the contract to the public one."""
    return _BY_CODE[error.code](
        error.code,
        error.message,
        retriable=error.retriable,
        retry_after_ms=error.retry_after_ms,
        detail=error.detail,
    )


class public_errors:  # noqa: N801 - used as a function
    """The single boundary at which the contract's errors become this package's.

    A class, because each request of a client passes here: a generator costs ten times as much.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, IpcError):
            raise from_ipc(error) from None
