from __future__ import annotations

import pytest

from logos_gateway.origins import judge_origin, known_host, may_open_socket

ALLOWED = ("https://app.example", "https://*.test", "http://localhost:????")


def test_nothing_is_added_without_an_origin_or_without_allowed_ones() -> None:
    assert judge_origin([], ALLOWED) == (None, {})
    assert judge_origin(["https://other"], ()) == (None, {})


@pytest.mark.parametrize("origin", ["https://app.example", "https://a.b.test", "http://localhost:3000"])
def test_an_allowed_origin_is_named(origin: str) -> None:
    decision = judge_origin([origin], ALLOWED)
    assert decision == (None, {"Access-Control-Allow-Origin": origin, "Vary": "Origin"})


@pytest.mark.parametrize(
    "origin", ["https://app.example.evil", "http://app.example", "http://localhost:30", "null"]
)
def test_another_origin_is_refused(origin: str) -> None:
    assert judge_origin([origin], ALLOWED).refusal == (403, "Origin not allowed")


def test_everybody_and_several_headers() -> None:
    assert judge_origin(["x"], ("*",)).headers == {"Access-Control-Allow-Origin": "*"}
    refusal = judge_origin(["a", "b"], ALLOWED).refusal
    assert refusal is not None
    assert refusal[0] == 400


def test_a_bracket_in_a_pattern_is_not_a_set() -> None:
    assert judge_origin(["http://[::1]:80"], ("http://[::1]:80",)).refusal is None


def test_who_may_open_a_socket() -> None:
    assert may_open_socket(None, "127.0.0.1:8645", ())
    assert may_open_socket("http://127.0.0.1:8645", "127.0.0.1:8645", ())
    assert may_open_socket("https://app.example", "h", ALLOWED)
    assert may_open_socket("https://x", "h", ("*",))
    assert not may_open_socket("https://evil.example", "127.0.0.1:8645", ALLOWED)
    assert not may_open_socket("null", "127.0.0.1:8645", ())
    assert not may_open_socket("http://[", "127.0.0.1:8645", ())
    assert not may_open_socket("", "", ())


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LocalHost:1", True),
        ("127.0.0.1:8645", True),
        ("127.8.8.8", True),
        ("[::1]:8645", True),
        ("node.example:8645", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("192.168.1.1:8645", False),
        ("[::2]", False),
        ("[::1", False),
        ("::1", False),
        ("a:b@localhost", False),
        ("localhost:80:80", False),
        ("", False),
    ],
)
def test_names_it_may_be_called_by(host: str, known: bool) -> None:
    assert known_host(host, ("node.example",)) is known
