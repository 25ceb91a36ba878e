"""The closed list of errors of the contract (SPEC.md, "Errors").

IpcError(Exception)          sent by servers, raised by clients
└── frames.FrameError        the frames of a request or reply could not be understood
└── kernel.events.HeaderError, mapi.events.EventError    likewise for an event's header
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

__all__ = ["MAX_ERROR_TEXT", "ErrorCode", "IpcError"]

MAX_ERROR_TEXT: Final = 1024
"""Longest `message` of an error on the wire, in characters; longer ones are truncated."""

_MAX_RETRY_AFTER_MS: Final = 2**63 - 1


class ErrorCode(StrEnum):
    """All codes. A reader treats an unknown code as `internal`."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_METHOD = "unknown_method"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNAUTHORISED = "unauthorised"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    NOT_READY = "not_ready"
    RESYNCING = "resyncing"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    PEER_RESTARTED = "peer_restarted"
    TRIMMED = "trimmed"
    EPOCH_CHANGED = "epoch_changed"
    CONFLICT = "conflict"
    NO_PEERS = "no_peers"
    RATE_LIMITED = "rate_limited"
    RLN_REQUIRED = "rln_required"
    INTERNAL = "internal"

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later, unless the error itself says otherwise."""
        return self in _RETRIABLE


_RETRIABLE: Final = frozenset(
    {
        ErrorCode.BUSY,
        ErrorCode.NOT_READY,
        ErrorCode.RESYNCING,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.PEER_RESTARTED,
        ErrorCode.NO_PEERS,
        ErrorCode.RATE_LIMITED,
        ErrorCode.INTERNAL,
    }
)
_CODES: Final = {str(code): code for code in ErrorCode}


class IpcError(Exception):
    """An error of the contract.

    `detail` holds msgpack values under str keys; `retry_after_ms` is a hint, or None.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retriable: bool | None = None,
        retry_after_ms: int | None = None,
        detail: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retriable = code.retriable if retriable is None else retriable
        self.retry_after_ms = retry_after_ms
        self.detail: dict[str, object] = dict(detail) if detail else {}

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code}, {self.message!r})"

    def to_body(self) -> dict[str, object]:
        """Return the error as the body of a reply. The text is truncated to size and made valid Unicode."""
        text = self.message[:MAX_ERROR_TEXT].encode("utf-8", "replace").decode("utf-8")
        body: dict[str, object] = {"code": str(self.code), "retriable": self.retriable, "message": text}
        if self.retry_after_ms is not None:
            body["retry_after_ms"] = self.retry_after_ms
        if self.detail:
            body["detail"] = self.detail
        return body

    @classmethod
    def from_body(cls, body: Mapping[str, object]) -> IpcError:
        """Parse the body of an error reply.

        A code of a later version becomes `internal`, with the code before the text; its `retriable` is
        kept. Raises `IpcError` (`bad_request`) if the body is not an error of the contract.
        """
        code, text = body.get("code"), body.get("message")
        if not isinstance(code, str):
            raise IpcError(ErrorCode.BAD_REQUEST, "error: code is not a text")
        if not isinstance(text, str):
            raise IpcError(ErrorCode.BAD_REQUEST, "error: message is not a text")
        known = _CODES.get(code)
        if known is None:
            known, text = ErrorCode.INTERNAL, f"{code}: {text}"
        retriable = body.get("retriable")
        if retriable is not None and type(retriable) is not bool:
            raise IpcError(ErrorCode.BAD_REQUEST, "error: retriable is not a boolean")
        retry_after = body.get("retry_after_ms")
        if retry_after is not None and (
            type(retry_after) is not int or not 0 <= retry_after <= _MAX_RETRY_AFTER_MS
        ):
            raise IpcError(
                ErrorCode.BAD_REQUEST,
                f"error: retry_after_ms is not an integer in 0..{_MAX_RETRY_AFTER_MS}",
            )
        detail = body.get("detail")
        if detail is not None and not isinstance(detail, dict):
            raise IpcError(ErrorCode.BAD_REQUEST, "error: detail is not a map")
        return IpcError(known, text, retriable=retriable, retry_after_ms=retry_after, detail=detail)
