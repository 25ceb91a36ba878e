from __future__ import annotations

import json
from contextlib import suppress
from http import HTTPStatus
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.web import (
    MAX_HEAD,
    Head,
    Outcome,
    Page,
    Site,
    Visit,
    WebError,
    head_of,
    standard_pages,
)

GET = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n"


def status(data: bytes) -> int:
    with pytest.raises(WebError) as caught:
        head_of(data)
    return caught.value.status


def test_a_request_is_complete_at_its_first_empty_line() -> None:
    assert head_of(GET) == Head("GET", "/metrics")
    assert all(head_of(GET[:end]) is None for end in range(len(GET)))
    assert head_of(b"HEAD / HTTP/1.0\r\n\r\nrest") == Head("HEAD", "/")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02", 400),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"G" * (MAX_HEAD + 1), 431),
        (b"GET / HTTP/1.1\r\nHost: " + b"a" * MAX_HEAD + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, expected: int) -> None:
    assert status(data) == expected


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with suppress(WebError):
        head_of(data)


def test_answers() -> None:
    site = Site({"/a": lambda: Page(b"hello")})
    head, _, body = site.answer(Head("GET", "/a")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 5" in head
    assert b"Connection: close" in head
    assert body == b"hello"
    assert site.answer(Head("HEAD", "/a")).partition(b"\r\n\r\n")[::2] == (head, b"")
    for request, expected in ((Head("GET", "/b"), 404), (Head("POST", "/a"), 405)):
        with pytest.raises(WebError) as caught:
            site.answer(request)
        assert caught.value.status == expected
    assert b"Allow: GET, HEAD" in Site.refusal(HTTPStatus.METHOD_NOT_ALLOWED)


def test_standard_pages() -> None:
    health: dict[str, object] = {"ready": False, "state": "INITIALIZING", "instance": b"\x01\xff"}
    pages = standard_pages(lambda: "x 1\n", lambda: health)
    assert pages["/metrics"]().body == b"x 1\n"
    assert json.loads(pages["/health"]().body) == {**health, "instance": "01ff"}
    assert (pages["/ready"]().status, pages["/ready"]().body) == (503, b"INITIALIZING\n")
    health.update(ready=True, state="READY")
    assert pages["/ready"]().status == 200


def failing() -> Page:
    raise RuntimeError("a page of the test")


SITE = Site({"/metrics": lambda: Page(b"x 1"), "/fails": failing})


@given(st.lists(st.integers(1, len(GET) - 1), max_size=5))
def test_a_visit_gives_one_answer_however_the_request_comes(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(GET)]
    visit = Visit(SITE)
    *before, last = [visit.receive(GET[start:end]) for start, end in pairwise(at)]
    assert before == [None] * len(before)
    assert last == SITE.answer(Head("GET", "/metrics"))
    assert visit.outcome is Outcome.SERVED


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_no_visitor_brings_more_about_than_a_refusal(parts: list[bytes]) -> None:
    visit = Visit(SITE)
    for part in parts:
        answer = visit.receive(part)
        if answer is not None:
            assert answer.startswith(b"HTTP/1.1 4")
            assert visit.outcome is Outcome.REFUSED


def test_a_page_that_fails_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    visit = Visit(SITE)
    answer = visit.receive(GET.replace(b"/metrics", b"/fails"))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"a page of the test" not in answer
    assert visit.outcome is Outcome.FAILED
    assert "a page failed" in caplog.text


def test_too_many_visitors_are_turned_away() -> None:
    visit = Visit(SITE)
    assert visit.turn_away().startswith(b"HTTP/1.1 503 ")
    assert visit.outcome is Outcome.BUSY
