"""Errors of our own routes as problem details (RFC 9457). Pure."""

from __future__ import annotations

from typing import Any, Final

from ipc_schema.errors import ErrorCode
from logos_client.exceptions import LogosError

PROBLEM_TYPE: Final = "application/problem+json"

STATUS_OF: Final = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNKNOWN_METHOD: 501,
    ErrorCode.UNSUPPORTED_VERSION: 502,
    ErrorCode.UNAUTHORISED: 403,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.BUSY: 503,
    ErrorCode.NOT_READY: 503,
    ErrorCode.RESYNCING: 503,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.PEER_RESTARTED: 503,
    ErrorCode.TRIMMED: 410,
    ErrorCode.EPOCH_CHANGED: 410,
    ErrorCode.CONFLICT: 409,
    ErrorCode.NO_PEERS: 503,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.RLN_REQUIRED: 422,
    ErrorCode.INTERNAL: 500,
}


class ProblemError(Exception):
    """A request answered with problem details. `code` is one of the contract's, or `not_found`,
    `misdirected`, `unauthenticated` or `unsupported_media_type`, which only HTTP has."""

    def __init__(self, status: int, code: str, detail: str, *, retriable: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retriable = retriable

    def body(self) -> dict[str, Any]:
        return _members(self.status, self.code, self.detail, retriable=self.retriable)


def problem_of(error: LogosError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return status, headers and members for an error of the contract."""
    status = STATUS_OF[error.code]
    members = _members(status, str(error.code), error.message, retriable=error.retriable)
    headers: dict[str, str] = {}
    if error.retry_after_ms is not None:
        members["retryAfterMs"] = error.retry_after_ms
        headers["Retry-After"] = str(max(1, -(-error.retry_after_ms // 1000)))
    return status, headers, members


def _members(status: int, code: str, detail: str, *, retriable: bool) -> dict[str, Any]:
    return {
        "type": f"urn:logos:error:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": detail,
        "code": code,
        "retriable": retriable,
    }
