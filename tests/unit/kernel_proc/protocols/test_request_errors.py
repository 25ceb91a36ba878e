"""Failures of other nodes as errors of the contract."""

from __future__ import annotations

import pytest

from kernel_proc.protocols.requests import (
    AllFailed,
    Attempt,
    BadAnswer,
    CallError,
    NoAnswer,
    PeerUnreachable,
    RequestRefused,
)


@pytest.mark.parametrize(
    ("errors", "code", "retriable"),
    [
        ([], "no_peers", True),
        ([NoAnswer("silence")], "no_peers", True),
        ([PeerUnreachable("gone"), BadAnswer("noise")], "no_peers", True),
        ([RequestRefused(505, "no peers"), NoAnswer("silence")], "no_peers", True),
        ([RequestRefused(503, "")], "no_peers", True),
        ([RequestRefused(429, ""), RequestRefused(429, "")], "rate_limited", True),
        ([RequestRefused(429, ""), NoAnswer("silence")], "no_peers", True),
        ([NoAnswer("silence"), RequestRefused(420, "invalid")], "bad_request", False),
        ([RequestRefused(300, "cursor not found")], "bad_request", False),
        ([RequestRefused(400, "nonsense", final=True)], "bad_request", False),
    ],
)
def test_codes(errors: list[CallError], code: str, retriable: bool) -> None:
    error = AllFailed("store", [Attempt(f"p{n}", error) for n, error in enumerate(errors)])
    assert (str(error.code), error.retriable) == (code, retriable)
    expected = [
        {"peer": f"p{n}", "error": str(each)}
        | ({"status": each.status} if isinstance(each, RequestRefused) else {})
        | ({"unanswered": True} if isinstance(each, NoAnswer | BadAnswer) else {})
        for n, each in enumerate(errors)
    ]
    assert error.detail == ({"attempts": expected} if errors else {})
    assert str(error) == error.message != ""
