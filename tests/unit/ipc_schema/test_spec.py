"""SPEC.md says what the code does: its tables are read and compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ipc_schema
from ipc_schema import control, frames, hello, paths, streams
from ipc_schema.errors import MAX_ERROR_TEXT, ErrorCode
from ipc_schema.fields import MAX_ITEMS
from ipc_schema.kernel import methods as kernel
from ipc_schema.kernel.events import EventKind
from ipc_schema.mapi import control as mapi_control
from ipc_schema.mapi import methods as mapi
from ipc_schema.mapi.events import AppEventKind

SPEC = (Path(ipc_schema.__file__).parent / "SPEC.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text from a heading to the next one of any level."""
    found = re.search(rf"^#+ [\d.]* ?{re.escape(title)}.*?\n(.*?)(?=^#|\Z)", SPEC, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]


def test_the_error_table() -> None:
    table = {row[0]: row[1] for row in rows(section("Errors")) if row[1] in ("yes", "no")}
    assert table == {str(code): "yes" if code.retriable else "no" for code in ErrorCode}


@pytest.mark.parametrize(
    ("titles", "methods"),
    [
        (["Streams: leases", "Other methods"], set(kernel.METHODS)),
        (["Control (kernel"], set(control.METHODS)),
        (["Methods", "Reliable channels"], set(mapi.METHODS) - {"hello"}),
        (["Control of a Messaging API"], set(mapi_control.METHODS)),
    ],
)
def test_the_method_tables(titles: list[str], methods: set[str]) -> None:
    named: set[str] = set()
    for title in titles:
        for row in rows(section(title)):
            named |= set(re.findall(r"`([a-z_.]+)`", row[0]))
    assert named == methods


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("Events (SUB)", {int(kind): kind.name.lower() for kind in EventKind}),
        ("The app's stream", {int(kind): kind.name.lower() for kind in AppEventKind}),
    ],
)
def test_the_event_tables(title: str, kinds: dict[int, str]) -> None:
    assert {int(row[0]): row[1] for row in rows(section(title)) if row[0].isdigit()} == kinds


def test_numbers_in_the_text() -> None:
    requests = section("Requests and replies")
    for number in (
        frames.DEFAULT_BUDGET_MS,
        frames.MAX_BUDGET_MS,
        frames.MAX_REPLY_BLOBS,
        MAX_ERROR_TEXT,
        MAX_ITEMS,
    ):
        assert f"{number:,}" in requests
    assert f"{frames.MAX_CONTAINERS:,}" in requests
    assert f"at most {frames.MAX_BLOBS} blobs" in requests
    assert f"nesting ≤ {frames.MAX_DEPTH}" in requests
    assert f"at most {paths.MAX_SOCKET_PATH} bytes" in section("Transport")
    assert f"| heartbeat_ms | {hello.HEARTBEAT_MS} |" in SPEC
    replay = section("Streams: leases")
    assert f"{streams.MAX_REPLAY_EVENTS:,} events" in replay
    assert f"last {streams.MAX_INTERVALS}" in replay
    assert f"at most {kernel.MAX_LEASED_SHARDS:,}" in replay
    assert f"`lease_ttl_ms` ({kernel.LEASE_TTL_MS})" in replay
    assert f"`lease_renew_ms` ({kernel.LEASE_RENEW_MS})" in replay
