"""What the failures of asking other nodes are to who asked us."""

from __future__ import annotations

from ipc_schema.errors import ErrorCode, IpcError
from kernel_proc.protocols.requests import AllFailed, BadAnswer, CallError, NoAnswer, RequestRefused

__all__ = ["service_error"]

_REFUSED = frozenset({300, 400, 413, 420})
"""Answers that are about the request and not about the peer: store's archive errors, bad requests, invalid
messages."""
_TOO_MANY = 429


def service_error(error: AllFailed) -> IpcError:
    """`bad_request` when a peer refused the request as such, `rate_limited` when all who answered did so for
    its rate, else `no_peers`. The detail has every attempt."""
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
    """The peer's own word, or that it was asked and what it did is not known."""
    if isinstance(error, RequestRefused):
        return {"status": error.status}
    return {"unanswered": True} if isinstance(error, NoAnswer | BadAnswer) else {}
