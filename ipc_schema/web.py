"""The little of HTTP/1.1 (RFC 9112) that a page of metrics needs: one GET or HEAD, one answer, the end. Pure.

A body is neither read nor wanted, a connection serves one request (`Connection: close`), and there are no
headers for browsers of other origins.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from ipc_schema import prometheus

__all__ = [
    "MAX_CONNECTIONS",
    "MAX_HEAD",
    "SECONDS",
    "Head",
    "Outcome",
    "Page",
    "Site",
    "Visit",
    "WebError",
    "head_of",
    "standard_pages",
]

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
"""At once. Nothing of a process may depend on who connects here: what comes beyond is answered 503."""
SECONDS: Final = 5.0
"""For a whole connection: a request, the answer, the end."""
MAX_HEAD: Final = 8192
"""Bytes of a request before its first empty line."""

_REQUEST_LINE: Final = re.compile(r"([A-Z]{1,16}) ([!-~]{1,2048}) HTTP/1\.([0-9])")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class WebError(Exception):
    """A request that is not served. `status` is the HTTP status that says so."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(f"{status.value} {status.phrase}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """What was asked for: the method and the path without its query."""

    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK


def head_of(data: bytes | bytearray) -> Head | None:
    """The request's head in what has come by now, None while it is not complete. Raises `WebError`."""
    end = data.find(b"\r\n\r\n")
    if end < 0 and len(data) <= MAX_HEAD:
        if data and not 0x41 <= data[0] <= 0x5A:  # no method begins so: no need to wait for the rest
            raise WebError(HTTPStatus.BAD_REQUEST)
        return None
    if not 0 <= end <= MAX_HEAD:
        raise WebError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    first, *headers = data[:end].decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None or not all(_HEADER.fullmatch(line) for line in headers):
        raise WebError(HTTPStatus.BAD_REQUEST)
    hosts = sum(line.lower().startswith("host:") for line in headers)
    if hosts > 1 or (hosts == 0 and match[3] != "0"):
        raise WebError(HTTPStatus.BAD_REQUEST)
    return Head(match[1], match[2].partition("?")[0])


class Site:
    """Pages by path, each made when it is asked for."""

    def __init__(self, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._pages = dict(pages)

    def answer(self, head: Head) -> bytes:
        """The whole response. Raises `WebError`, and whatever the page raises."""
        page = self._pages.get(head.path)
        if page is None:
            raise WebError(HTTPStatus.NOT_FOUND)
        if head.method not in ("GET", "HEAD"):
            raise WebError(HTTPStatus.METHOD_NOT_ALLOWED)
        return _response(page(), with_body=head.method == "GET")

    @staticmethod
    def refusal(status: HTTPStatus) -> bytes:
        """The whole response that says no."""
        return _response(Page(f"{status.phrase}\n".encode(), status=status), with_body=True)


class Outcome(StrEnum):
    """What became of a connection, for the counter `http_requests`."""

    SERVED = "served"
    REFUSED = "refused"
    FAILED = "failed"
    """The page could not be made."""
    BUSY = "busy"
    TOO_SLOW = "too_slow"


class Visit:
    """One connection without its socket: what comes in goes to `receive`, until that gives the answer."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._data = bytearray()
        self.outcome: Outcome | None = None
        """None until there is an answer."""

    def turn_away(self) -> bytes:
        """The answer when there are too many connections."""
        self.outcome = Outcome.BUSY
        return Site.refusal(HTTPStatus.SERVICE_UNAVAILABLE)

    def receive(self, data: bytes) -> bytes | None:
        """The whole response, or None while the request is not complete. Raises nothing."""
        self._data += data
        try:
            head = head_of(self._data)
            if head is None:
                return None
            answer = self._site.answer(head)
        except WebError as error:
            self.outcome = Outcome.REFUSED
            return Site.refusal(error.status)
        except Exception:  # a page that fails must be told, and must not end the process
            log.exception("a page failed")
            self.outcome = Outcome.FAILED
            return Site.refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        self.outcome = Outcome.SERVED
        return answer


def _response(page: Page, *, with_body: bool) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if page.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        f"Content-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\n"
        f"{allow}"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n\r\n"
    ).encode("ascii")
    return head + page.body if with_body else head


def standard_pages(
    metrics: Callable[[], str], health: Callable[[], Mapping[str, Any]]
) -> dict[str, Callable[[], Page]]:
    """`/metrics` in Prometheus' format; `/health` as JSON, the body of control's `health`; `/ready`, 200 or
    503 by its `ready`."""

    def ready() -> Page:
        body = health()
        status = HTTPStatus.OK if body["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(f"{body['state']}\n".encode(), status=status)

    return {
        "/metrics": lambda: Page(metrics().encode(), prometheus.CONTENT_TYPE),
        "/health": lambda: Page(_json(health()), "application/json"),
        "/ready": ready,
    }


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=_plain).encode() + b"\n"


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
