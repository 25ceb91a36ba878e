"""`send_many`: several sends in one request (SPEC.md §4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self

from ipc_schema.body import Bin16, Body, Range, Size, Uint
from ipc_schema.errors import MAX_ERROR_TEXT
from ipc_schema.fields import INT64_MAX, MAX_TEXT
from ipc_schema.many import MAX_ROWS, check_blobs, usual_rows
from ipc_schema.message import MAX_META_SIZE

__all__ = [
    "FEATURE_SEND_MANY",
    "MAX_SENDS",
    "MAX_SEND_BYTES",
    "SEND_MANY",
    "SendManyReply",
    "SendManyRequest",
    "is_usual_send",
]

SEND_MANY: Final = "send_many"
FEATURE_SEND_MANY: Final = "send_many"
"""In a hello's `features`: the method `send_many`."""
MAX_SENDS: Final = MAX_ROWS
"""Most sends in one request."""
MAX_SEND_BYTES: Final = 1 << 20
"""Most payload bytes of one request."""


class SendManyRequest(Body):
    """Several sends; the payload of each is the blob of its number.

    Of each: request id, content topic, meta, ephemeral, timestamp (0: the first attempt sets it).
    """

    sends: Annotated[
        tuple[
            tuple[
                Bin16, str, Annotated[bytes, Size(MAX_META_SIZE)], bool, Annotated[int, Range(0, INT64_MAX)]
            ],
            ...,
        ],
        Size(MAX_SENDS),
    ]

    @classmethod
    def from_body(cls, body: Mapping[str, object], where: str = "") -> Self:
        """See `Body`."""
        rows = usual_rows(body.get("sends"), is_usual_send)
        return super().from_body(body, where) if rows is None else cls(sends=rows)

    def check(self, blobs: Sequence[bytes]) -> None:
        """Raise `IpcError`: `bad_request` unless each send has its blob, `too_large` if they are too large
        together."""
        check_blobs(blobs, len(self.sends), "sends", MAX_SEND_BYTES)


class SendManyReply(Body):
    """What came of each send, in the same order: code and text of its error (both empty: it is accepted), ms
    after which to try again (0: not said), and whether it had been accepted before under this id."""

    results: Annotated[
        tuple[tuple[Annotated[str, Size(64)], Annotated[str, Size(MAX_ERROR_TEXT * 4)], Uint, bool], ...],
        Size(MAX_SENDS),
    ]

    @classmethod
    def from_body(cls, body: Mapping[str, object], where: str = "") -> Self:
        """See `Body`."""
        rows = usual_rows(body.get("results"), _is_usual_result)
        return super().from_body(body, where) if rows is None else cls(results=rows)


def is_usual_send(row: Any) -> bool:
    """Check a send as the annotations do, inlined, since these are many; they word the error."""
    if type(row) is not list or len(row) != 5:
        return False
    request_id, content_topic, meta, ephemeral, timestamp = row
    return (
        type(request_id) is bytes
        and len(request_id) == 16
        and type(content_topic) is str
        and len(content_topic) <= MAX_TEXT
        and content_topic.isascii()
        and type(meta) is bytes
        and len(meta) <= MAX_META_SIZE
        and type(ephemeral) is bool
        and type(timestamp) is int
        and 0 <= timestamp <= INT64_MAX
    )


def _is_usual_result(row: Any) -> bool:
    if type(row) is not list or len(row) != 4:
        return False
    code, text, retry_after_ms, repeated = row
    return (
        code == ""
        and text == ""
        and type(retry_after_ms) is int
        and retry_after_ms == 0
        and type(repeated) is bool
    )
