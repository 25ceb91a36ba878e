from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.errors import MAX_ERROR_TEXT, ErrorCode, IpcError
from tests.unit.ipc_schema.strategies import attempt, values


def test_the_list_is_the_one_of_the_contract() -> None:
    retriable = {code for code in ErrorCode if code.retriable}
    assert retriable == {
        "busy",
        "not_ready",
        "resyncing",
        "deadline_exceeded",
        "peer_restarted",
        "no_peers",
        "rate_limited",
        "internal",
    }
    assert set(ErrorCode) - retriable == {
        "bad_request",
        "unknown_method",
        "unsupported_version",
        "unauthorised",
        "too_large",
        "trimmed",
        "epoch_changed",
        "conflict",
        "rln_required",
    }


@pytest.mark.parametrize("code", list(ErrorCode))
def test_round_trip(code: ErrorCode) -> None:
    error = IpcError(code, "why", retry_after_ms=5, detail={"first": 7})
    again = IpcError.from_body(error.to_body())
    assert (again.code, again.message, again.retriable, again.retry_after_ms, again.detail) == (
        code,
        "why",
        code.retriable,
        5,
        {"first": 7},
    )


def test_retriable_may_be_said_otherwise() -> None:
    error = IpcError(ErrorCode.INTERNAL, "for good", retriable=False)
    assert IpcError.from_body(error.to_body()).retriable is False


def test_what_is_not_said_is_not_written() -> None:
    assert set(IpcError(ErrorCode.BUSY, "full").to_body()) == {"code", "retriable", "message"}


def test_a_code_of_a_later_version_reads_as_internal() -> None:
    error = IpcError.from_body({"code": "moon_phase", "message": "wait", "retriable": False})
    assert (error.code, error.message, error.retriable) == (ErrorCode.INTERNAL, "moon_phase: wait", False)


def test_text_is_cut_and_made_valid() -> None:
    text = IpcError(ErrorCode.INTERNAL, "\udc80" + "x" * 5000).to_body()["message"]
    assert isinstance(text, str)
    assert text.startswith("?xxx")
    assert len(text) == MAX_ERROR_TEXT


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "code"),
        ({"code": 1, "message": ""}, "code"),
        ({"code": "busy"}, "message"),
        ({"code": "busy", "message": "", "retriable": 1}, "retriable"),
        ({"code": "busy", "message": "", "retry_after_ms": True}, "retry_after_ms"),
        ({"code": "busy", "message": "", "retry_after_ms": -1}, "retry_after_ms"),
        ({"code": "busy", "message": "", "detail": []}, "detail"),
    ],
)
def test_a_malformed_body_is_a_bad_request_that_names_the_place(body: dict[str, object], place: str) -> None:
    with pytest.raises(IpcError, match=place) as caught:
        IpcError.from_body(body)
    assert caught.value.code is ErrorCode.BAD_REQUEST


keys = st.sampled_from(["code", "message", "retriable", "retry_after_ms", "detail"])


@given(st.dictionaries(keys, values | st.sampled_from(["busy", "internal"])))
def test_any_body_is_an_error_or_raises_one(body: dict[str, object]) -> None:
    result = attempt(lambda: IpcError.from_body(body), IpcError)
    # Reading and refusing both give an IpcError; either can be sent and comes back as it was.
    again = IpcError.from_body(result.to_body())
    assert (again.code, again.retriable) == (result.code, result.retriable)


def test_a_hint_of_any_length_is_read() -> None:
    """A reader that took only hints of up to a day lost the error with the hint."""
    error = IpcError.from_body({"code": "busy", "message": "", "retry_after_ms": 2**63 - 1})
    assert error.retry_after_ms == 2**63 - 1
    with pytest.raises(IpcError, match="retry_after_ms"):
        IpcError.from_body({"code": "busy", "message": "", "retry_after_ms": 2**63})
