"""Failures of requests to another node's service, in the reference's terms. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from ipc_schema.errors import ErrorCode
from ipc_schema.message import WakuMessage
from logos_client.exceptions import LogosError

SERVICE_SECONDS: Final = 5.0
"""The reference's limit for a request to another node."""
NO_PEER: Final = "No suitable service peer & none discovered"

_KNOWN: Final = frozenset({400, 404, 420, 429, 500, 503, 504, 505})


def attempts_of(error: LogosError) -> Sequence[Mapping[str, object]]:
    """Return what was tried, as far as the kernel reports it."""
    attempts = error.detail.get("attempts")
    return [one for one in attempts if isinstance(one, dict)] if isinstance(attempts, list | tuple) else ()


def message_arguments(message: WakuMessage) -> dict[str, Any]:
    """Return a message as arguments of `publish` and `lightpush_publish`; without a timestamp the kernel
    stamps it."""
    return {**message._asdict(), "timestamp": message.timestamp or None}


def service_answer(error: LogosError) -> tuple[int, str]:
    """Return HTTP status and text: the service's own if it answered, else 503 without a peer, 504 if the peer
    could not be dialled, 500 for a bad response."""
    attempts = attempts_of(error)
    statuses = [one["status"] for one in attempts if isinstance(one.get("status"), int)]
    if statuses:
        status = statuses[-1]
        assert isinstance(status, int)
        return (status if status in _KNOWN else 500), str(attempts[-1].get("error", error.message))
    if error.code is ErrorCode.NO_PEERS:
        if not attempts:
            return 503, f"SERVICE_UNAVAILABLE: {NO_PEER}"
        if any(one.get("unanswered") for one in attempts):
            return 500, str(attempts[-1].get("error", error.message))
        return 504, str(attempts[-1].get("peer", ""))
    if error.code is ErrorCode.RATE_LIMITED:
        return int(HTTPStatus.TOO_MANY_REQUESTS), error.message
    if error.code in (ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE):
        return 400, f"BAD_REQUEST: {error.message}"
    return 503, f"SERVICE_UNAVAILABLE: {error.message}"
