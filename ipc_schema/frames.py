"""Frames of requests and replies (SPEC.md, "Requests and replies").

| | frames |
|---|---|
| request | `LD1` · `[correlation id bin16, method, budget ms, flags]` · body · blob … |
| reply | `LD1` · `[correlation id bin16, status, instance bin16]` · body or error · blob … |

Decoders take the frames as `bytes` and return a typed value or raise `FrameError`, whatever the bytes. Blobs
pass through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from msgpack import packb, unpackb

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.fields import INT64_MAX, MAX_ITEMS, FieldError, as_binary, as_integer, as_map, as_text

__all__ = [
    "DEFAULT_BUDGET_MS",
    "ID_SIZE",
    "MAGIC",
    "MAX_BLOBS",
    "MAX_BODY",
    "MAX_BUDGET_MS",
    "MAX_CONTAINERS",
    "MAX_DEPTH",
    "MAX_HEADER",
    "MAX_REPLY_BLOBS",
    "NO_CORRELATION",
    "NO_REPLY",
    "STATUS_ERROR",
    "STATUS_OK",
    "FrameError",
    "Reply",
    "Request",
    "decode_body",
    "decode_reply",
    "decode_request",
    "encode_error",
    "encode_reply",
    "encode_request",
    "is_app_event",
    "unpack_header",
]

MAGIC: Final = b"LD1"
NO_REPLY: Final = 1
"""Request flag: success is not answered, errors are."""
STATUS_OK: Final = 0
STATUS_ERROR: Final = 1
ID_SIZE: Final = 16
"""Bytes of a correlation id and of an instance."""
NO_CORRELATION: Final = bytes(ID_SIZE)
"""Correlation id of the answer to a request whose own could not be read."""

MAX_HEADER: Final = 4096
MAX_BODY: Final = 1_048_576
MAX_BLOBS: Final = 64
"""Most blobs of a request."""
MAX_REPLY_BLOBS: Final = 4096
MAX_DEPTH: Final = 16
"""Deepest nesting of arrays and maps in a body, the body itself included."""
MAX_CONTAINERS: Final = 65_536
"""Most arrays and maps in a body, all together."""
MAX_METHOD: Final = 64
DEFAULT_BUDGET_MS: Final = 10_000
MAX_BUDGET_MS: Final = 3_600_000

_EMPTY_BODY: Final = b"\x80"

T = TypeVar("T")


class FrameError(IpcError):
    """Frames that are not a request or reply of the contract. The code is `bad_request`.

    `correlation_id` is the id if it could be read (else 16 zero bytes) and `delimited` whether an empty
    delimiter frame came first (a REQ socket sends one): both are needed to answer.
    """

    def __init__(
        self,
        message: str,
        *,
        correlation_id: bytes = NO_CORRELATION,
        delimited: bool = False,
    ) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, message)
        self.correlation_id = correlation_id
        self.delimited = delimited


class Request(NamedTuple):
    """A decoded request. `budget_ms` as sent: 0 means the server's default."""

    correlation_id: bytes
    method: str
    budget_ms: int
    flags: int
    body: dict[str, object]
    blobs: Sequence[bytes]

    @property
    def effective_budget_ms(self) -> int:
        """The budget, with the default in place of 0."""
        return self.budget_ms or DEFAULT_BUDGET_MS

    @property
    def no_reply(self) -> bool:
        """Whether success must not be answered."""
        return self.flags & NO_REPLY != 0


class Reply(NamedTuple):
    """A decoded reply. `status` is 0 (ok) or 1 (error)."""

    correlation_id: bytes
    status: int
    instance: bytes
    body: dict[str, object]
    blobs: Sequence[bytes]

    @property
    def error(self) -> IpcError | None:
        """The error of a reply with status 1, else None."""
        return IpcError.from_body(self.body) if self.status else None


# --- unpacking, shared by all decoders --------------------------------------------------------------------


# msgpack preallocates as many elements as an array header claims, at every level of nesting: without limits a
# frame of a few kilobytes allocates gigabytes.


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code} is not used in this contract")


def unpack_header(frame: bytes, max_bytes: int = MAX_HEADER) -> tuple[Any, ...]:
    """Unpack a header frame: exactly one array, inner arrays as tuples. Raises `FieldError`."""
    size = len(frame)
    if size > max_bytes:
        raise FieldError(f"{size} bytes, at most {max_bytes} are allowed")
    claims = min(MAX_ITEMS, size)
    try:
        header = unpackb(
            frame,
            use_list=False,
            ext_hook=_refuse_extension,
            max_ext_len=0,
            max_array_len=claims,
            max_map_len=claims,
        )
    except (ValueError, RecursionError) as error:
        raise FieldError(f"is not MessagePack: {_reason(error)}") from None
    if type(header) is not tuple:
        raise FieldError("an array is expected")
    return header


def decode_body(frame: bytes) -> dict[str, object]:
    """Unpack a body: one map with str keys, within the limits of size and nesting. Raises `FieldError`."""
    if frame == _EMPTY_BODY:
        return {}
    size = len(frame)
    if size > MAX_BODY:
        raise FieldError(f"{size} bytes, at most {MAX_BODY} are allowed")
    claims = min(size, MAX_ITEMS)
    # A container takes one byte in the frame and 64 in memory, so count them while unpacking a large body.
    count = _ContainerCount() if size > MAX_CONTAINERS else None
    try:
        body = unpackb(
            frame,
            ext_hook=_refuse_extension,
            object_hook=count,
            list_hook=count,
            max_ext_len=0,
            max_array_len=claims,
            max_map_len=claims,
        )
    except (ValueError, RecursionError) as error:
        raise FieldError(f"is not MessagePack: {_reason(error)}") from None
    checked = as_map(body)
    _check_nesting(checked)
    return checked


class _ContainerCount:
    """An unpacker hook that passes arrays and maps through until there are too many."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_CONTAINERS

    def __call__(self, container: object) -> object:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {MAX_CONTAINERS} arrays and maps")
        return container


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _check_nesting(body: dict[str, object]) -> None:
    """Bound the depth, and require str keys of all inner maps, level by level."""
    level = _containers(body.values())  # usually there are none
    depth = 1
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise FieldError(f"is nested deeper than {MAX_DEPTH} levels")
        inner: list[Any] = []
        for container in level:
            inner += _containers(as_map(container).values() if type(container) is dict else container)
        level = inner


def _containers(items: Iterable[object]) -> list[Any]:
    return [item for item in items if type(item) is dict or type(item) is list]


# --- encoding ---------------------------------------------------------------------------------------------


def _pack_body(body: Mapping[str, object] | None, where: str, blame: ErrorCode) -> bytes:
    if not body:
        return _EMPTY_BODY
    try:
        packed: bytes = packb(body)
    except (TypeError, ValueError, OverflowError) as error:
        raise IpcError(blame, f"{where}: cannot be encoded: {_reason(error)}") from error
    if len(packed) > MAX_BODY:
        raise IpcError(
            ErrorCode.TOO_LARGE, f"{where}: body has {len(packed)} bytes, at most {MAX_BODY} are allowed"
        )
    return packed


def _check_id(name: str, value: bytes) -> None:
    if len(value) != ID_SIZE:
        raise ValueError(f"{name} has {len(value)} bytes, exactly {ID_SIZE} are needed")


def encode_request(
    correlation_id: bytes,
    method: str,
    body: Mapping[str, object] | None = None,
    blobs: Sequence[bytes] = (),
    *,
    budget_ms: int = 0,
    flags: int = 0,
) -> list[bytes]:
    """Return the frames of a request.

    Raises `IpcError` (`bad_request`, `too_large`) for a body that cannot be sent, and `ValueError` for a
    correlation id that is not 16 bytes, a budget outside 0..3,600,000, or too many blobs.
    """
    _check_id("correlation id", correlation_id)
    if not 0 <= budget_ms <= MAX_BUDGET_MS:
        raise ValueError(f"budget {budget_ms} ms is outside 0..{MAX_BUDGET_MS}")
    if len(blobs) > MAX_BLOBS:
        raise ValueError(f"{len(blobs)} blobs, at most {MAX_BLOBS} are allowed")
    header = packb((correlation_id, method, budget_ms, flags))
    return [MAGIC, header, _pack_body(body, method, ErrorCode.BAD_REQUEST), *blobs]


def encode_reply(
    correlation_id: bytes,
    instance: bytes,
    body: Mapping[str, object] | None = None,
    blobs: Sequence[bytes] = (),
    *,
    delimited: bool = False,
) -> list[bytes]:
    """Return the frames of a successful reply.

    Raises `IpcError` (`internal`, `too_large`) for a body that cannot be sent, `ValueError` for ids that
    are not 16 bytes or too many blobs.
    """
    if len(blobs) > MAX_REPLY_BLOBS:
        raise ValueError(f"{len(blobs)} blobs, at most {MAX_REPLY_BLOBS} are allowed")
    packed = _pack_body(body, "reply", ErrorCode.INTERNAL)
    return [*_reply_head(correlation_id, STATUS_OK, instance, delimited), packed, *blobs]


def encode_error(
    correlation_id: bytes, instance: bytes, error: IpcError, *, delimited: bool = False
) -> list[bytes]:
    """Return the frames of an error reply.

    A detail that cannot be sent is dropped, so that an answer goes out.
    """
    body = error.to_body()
    try:
        packed = _pack_body(body, "error", ErrorCode.INTERNAL)
    except IpcError:
        del body["detail"]
        packed = packb(body)
    return [*_reply_head(correlation_id, STATUS_ERROR, instance, delimited), packed]


def _reply_head(correlation_id: bytes, status: int, instance: bytes, delimited: bool) -> list[bytes]:
    _check_id("correlation id", correlation_id)
    _check_id("instance", instance)
    header = packb((correlation_id, status, instance))
    return [b"", MAGIC, header] if delimited else [MAGIC, header]


# --- decoding ---------------------------------------------------------------------------------------------


def is_app_event(header: bytes) -> bool:
    """Return whether the header frame belongs to an app's stream (SPEC.md, "The app's stream") rather than a
    reply.

    A cheap look at the first element: `bin` in a reply, an integer in an event. The decoders still check.
    """
    lead = header[:1]
    at = 3 if lead == b"\xdc" else 5 if lead == b"\xdd" else 1
    return header[at : at + 1] == b"\x01"


def decode_request(frames: Sequence[bytes]) -> tuple[Request, bool]:
    """Decode a request. The second value says whether an empty delimiter preceded it.

    Raises `FrameError`, which carries what is needed to answer.
    """
    delimited = _is_delimited(frames)
    header: tuple[Any, ...] = ()
    try:
        header = _header(frames, delimited)
        body, blobs = _rest(frames, delimited, MAX_BLOBS)
        if len(header) < 4:
            raise FieldError(f"header: {len(header)} elements, at least 4 are needed")
        correlation_id, method, budget_ms, flags = header[:4]
        if not (
            _is_id(correlation_id)
            and type(method) is str
            and method.isascii()
            and 0 < len(method) <= MAX_METHOD
            and type(budget_ms) is int
            and 0 <= budget_ms <= MAX_BUDGET_MS
            and type(flags) is int
            and 0 <= flags <= INT64_MAX
        ):
            # Not the usual request: one that is refused here with what is wrong about it.
            _within("correlation id", as_binary, correlation_id, ID_SIZE, ID_SIZE)
            _within("method", as_text, method, MAX_METHOD, 1)
            _within("budget", as_integer, budget_ms, 0, MAX_BUDGET_MS)
            _within("flags", as_integer, flags, 0, INT64_MAX)
        request = Request(correlation_id, method, budget_ms, flags, body, blobs)
    except FieldError as error:
        raise _frame_error("request", error, header, delimited) from None
    return request, delimited


def decode_reply(frames: Sequence[bytes]) -> Reply:
    """Decode a reply, with or without a delimiter; an error's body is checked too. Raises `FrameError`."""
    delimited = _is_delimited(frames)
    header: tuple[Any, ...] = ()
    try:
        header = _header(frames, delimited)
        body, blobs = _rest(frames, delimited, MAX_REPLY_BLOBS)
        if len(header) < 3:
            raise FieldError(f"header: {len(header)} elements, at least 3 are needed")
        correlation_id, status, instance = header[:3]
        if not (_is_id(correlation_id) and type(status) is int and status == STATUS_OK and _is_id(instance)):
            # Not the usual reply: an error, or one that is refused here with what is wrong about it.
            _within("correlation id", as_binary, correlation_id, ID_SIZE, ID_SIZE)
            _within("status", as_integer, status, STATUS_OK, STATUS_ERROR)
            _within("instance", as_binary, instance, ID_SIZE, ID_SIZE)
        reply = Reply(correlation_id, status, instance, body, blobs)
        if reply.status:
            try:
                IpcError.from_body(reply.body)
            except IpcError as refusal:
                raise FieldError(refusal.message) from None
    except FieldError as error:
        raise _frame_error("reply", error, header, delimited) from None
    return reply


def _is_id(value: object) -> bool:
    return type(value) is bytes and len(value) == ID_SIZE


def _is_delimited(frames: Sequence[bytes]) -> bool:
    return len(frames) > 0 and frames[0] == b""


def _header(frames: Sequence[bytes], delimited: bool) -> tuple[Any, ...]:
    at = 1 if delimited else 0
    if len(frames) <= at or frames[at] != MAGIC:
        raise FieldError(f"the first frame is not {MAGIC.decode()}")
    if len(frames) < at + 2:
        raise FieldError("no header frame")
    try:
        return unpack_header(frames[at + 1])
    except FieldError as error:
        raise error.under("header") from None


def _rest(
    frames: Sequence[bytes], delimited: bool, max_blobs: int
) -> tuple[dict[str, object], Sequence[bytes]]:
    at = 3 if delimited else 2
    if len(frames) <= at:
        raise FieldError("no body frame")
    blobs = frames[at + 1 :]
    if len(blobs) > max_blobs:
        raise FieldError(f"{len(blobs)} blobs, at most {max_blobs} are allowed")
    try:
        return decode_body(frames[at]), blobs
    except FieldError as error:
        raise error.under("body") from None


def _within(name: str, check: Callable[[object, int, int], T], value: object, first: int, second: int) -> T:
    try:
        return check(value, first, second)
    except FieldError as error:
        raise error.under(name).under("header") from None


def _frame_error(what: str, error: FieldError, header: tuple[object, ...], delimited: bool) -> FrameError:
    """Build the error, with the correlation id if it can be read: an answer under zeros helps no caller."""
    first = header[0] if header else None
    readable = type(first) is bytes and len(first) == ID_SIZE
    correlation_id = first if readable and isinstance(first, bytes) else NO_CORRELATION
    return FrameError(f"{what}: {error}", correlation_id=correlation_id, delimited=delimited)
