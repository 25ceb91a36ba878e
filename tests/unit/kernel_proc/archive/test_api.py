"""Queries that cannot be asked are refused where they are made."""

from __future__ import annotations

import pytest

from ipc_schema.message import encode_message
from kernel_proc.archive.api import ArchivedMessage, ArchiveError, BadQuery, HistoryQuery
from tests.support.archive import NOW, make_message


def test_defaults_are_those_of_nwaku() -> None:
    query = HistoryQuery()
    assert (query.limit, query.forward, query.include_data) == (20, False, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": 101},
        {"hashes": (b"\0" * 31,)},
        {"hashes": (b"\0" * 32,) * 1001},
        {"cursor": b""},
        {"cursor": b"\0" * 33},
        {"content_topics": ("/a",) * 101},
        {"content_topics": ("\ud800",)},
        {"pubsub_topic": "\ud800"},
        {"start": 1 << 63},
        {"end": -(1 << 63) - 1},
    ],
)
def test_out_of_bounds(fields: dict[str, object]) -> None:
    with pytest.raises(BadQuery) as refused:
        HistoryQuery(**fields)  # type: ignore[arg-type]
    assert isinstance(refused.value, ArchiveError)
    assert not refused.value.retriable


def test_the_bounds_themselves_are_allowed() -> None:
    HistoryQuery(
        limit=100,
        hashes=(bytes(32),) * 1000,
        content_topics=("",) * 100,
        start=-(1 << 63),
        end=(1 << 63) - 1,
        cursor=bytes(32),
    )


def test_a_stored_message_decodes_itself() -> None:
    message = make_message(NOW, proof=b"proof")
    assert ArchivedMessage(bytes(32), "/t", encode_message(message)).message == message
    assert ArchivedMessage(bytes(32)).message is None
