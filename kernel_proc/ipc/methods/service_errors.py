"""Map failures of requests to other nodes to errors for the caller."""

from __future__ import annotations

from ipc_schema.errors import ErrorCode, IpcError
from kernel_proc.protocols.requests import AllFailed, BadAnswer, CallError, NoAnswer, RequestRefused

_REFUSED = frozenset({300, 400, 413, 420})
"""Statuses about the request rather than the peer: store's archive errors, bad requests, invalid messages."""
_TOO_MANY = 429


def service_error(error: AllFailed) -> IpcError:
    """Return `bad_request` if a peer rejected the request itself, `rate_limited` if all responses were
    rate limits, else `no_peers`. The detail lists every attempt."""
    statuses = error.statuses
    if any(status in _REFUSED for status in statuses):
        code = ErrorCode.BAD_REQUEST
    elif statuses and len(statuses) == len(error.attempts) and set(statuses) == {_TOO_MANY}:
        code = ErrorCode.RATE_LIMITED
    else:
        code = ErrorCode.NO_PEERS
    attempts = [
        {"peer": attempt.peer, "error": str(attempt.error), **_outcome(attempt.error)}
        for attempt in error.attempts
    ]
    return IpcError(code, str(error), detail={"attempts": attempts} if attempts else None)


def _outcome(error: CallError) -> dict[str, object]:
    """Return the peer's response, or that the request was sent with unknown outcome."""
    if isinstance(error, RequestRefused):
        return {"status": error.status}
    return {"unanswered": True} if isinstance(error, NoAnswer | BadAnswer) else {}
