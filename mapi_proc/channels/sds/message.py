"""The SDS message on the wire, in its two numberings.

| field | spec and js | nim (the reference) |
|---|---|---|
| sender_id | 1 | 7 |
| message_id | 2 | 1 |
| channel_id | 3 | 4 |
| lamport_timestamp | 10 | 2 |
| causal_history, of HistoryEntry | 11 | 3 |
| bloom_filter | 12 | 6 |
| repair_request, of HistoryEntry | 13 | 13 |
| content | 20 | 5 |

HistoryEntry is the same in both: 1 message_id, 2 retrieval_hint, 3 sender_id. Field 2 distinguishes them: a
varint in the nim form, text in the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from ipc_schema.protobuf import ProtobufError, fields, put_bytes, put_varint, text
from mapi_proc.channels.keccak import keccak256
from mapi_proc.channels.sds.bloom import JS, NIM

MAX_ENTRIES: Final = 1000
"""Entries taken of one message's causal history: js sends 200."""

_MAX_FIELDS: Final = 2 * MAX_ENTRIES + 100
"""Fields read of one message, those of later versions included. Each channel on a content topic reads what
comes there: 150 KB of the smallest fields take 100 ms."""

MAX_ID: Final = 512
"""Bytes of an id, and of the hint of a reference: they are kept, shown to apps and referred to in messages of
our own, which must stay below the network's limit whatever others send."""
_UNITS: Final = {NIM: 1000, JS: 1}


class SdsError(ValueError):
    """The bytes are not an SDS message."""


class HistoryEntry(NamedTuple):
    """A reference to a message. The hint is the hash of a WakuMessage that carried it, for store queries."""

    message_id: str
    hint: bytes = b""
    sender_id: str = ""


@dataclass(frozen=True, slots=True)
class SdsMessage:
    """One message. `lamport` is in the unit of its `form` (seconds for nim, milliseconds for js) and None in
    a message without order; without content it is a sync message."""

    form: str
    message_id: str
    channel_id: str
    sender_id: str
    lamport: int | None
    causal_history: tuple[HistoryEntry, ...] = ()
    bloom: bytes = b""
    content: bytes = b""
    repair_requests: tuple[HistoryEntry, ...] = ()

    @property
    def order(self) -> int:
        """The Lamport time in milliseconds: one order for messages of both forms and for all participants."""
        return (self.lamport or 0) * _UNITS[self.form]

    @property
    def key(self) -> tuple[int, str]:
        """Return the place in the channel's log."""
        return self.order, self.message_id


@dataclass(frozen=True, slots=True)
class _Numbers:
    sender: int
    message: int
    channel: int
    lamport: int
    history: int
    bloom: int
    content: int
    repair: int = 13


_NUMBERS: Final = {NIM: _Numbers(7, 1, 4, 2, 3, 6, 5), JS: _Numbers(1, 2, 3, 10, 11, 12, 20)}


def message_id(sender_id: str, now_ns: int, content: bytes) -> str:
    """Return the id of a new message as the reference computes it; receivers do not check it."""
    return keccak256(sender_id.encode(), str(now_ns).encode(), content).hex()


def encode_sds(message: SdsMessage) -> bytes:
    """Encode in the message's form.

    In the nim form fields 1, 2, 4, 5 and 6 are always written: nim-sds before 0.4 refuses a message without
    them.
    """
    numbers = _NUMBERS[message.form]
    values: dict[int, list[bytes]] = {
        numbers.message: [message.message_id.encode()],
        numbers.channel: [message.channel_id.encode()],
        numbers.sender: [message.sender_id.encode()] if message.sender_id else [],
        numbers.history: [_encode_entry(entry) for entry in message.causal_history],
        numbers.repair: [_encode_entry(entry) for entry in message.repair_requests],
    }
    for number, value in ((numbers.bloom, message.bloom), (numbers.content, message.content)):
        values[number] = [value] if value or message.form == NIM else []
    out = bytearray()
    for number in sorted((*values, numbers.lamport)):
        if number == numbers.lamport:
            put_varint(out, number, message.lamport)
        for value in values.get(number, ()):
            put_bytes(out, number, value)
    return bytes(out)


def entry_size(entry: HistoryEntry) -> int:
    """Return at most how many bytes a reference takes in a message."""
    return 16 + len(entry.message_id.encode()) + len(entry.hint) + len(entry.sender_id.encode())


def _encode_entry(entry: HistoryEntry) -> bytes:
    out = bytearray()
    put_bytes(out, 1, entry.message_id.encode())
    if entry.hint:
        put_bytes(out, 2, entry.hint)
    if entry.sender_id:
        put_bytes(out, 3, entry.sender_id.encode())
    return bytes(out)


def decode_sds(data: bytes) -> SdsMessage:
    """Decode either form. Raises `SdsError`."""
    try:
        found = list(islice(fields(data), _MAX_FIELDS + 1))
        if len(found) > _MAX_FIELDS:
            raise SdsError(f"more than {_MAX_FIELDS} fields")
        form = NIM
        if any(number == 2 and isinstance(value, bytes) for number, value in found):
            form = JS
        return _decode(form, found)
    except ProtobufError as error:
        raise SdsError(f"not an SDS message: {error}") from error


def _decode(form: str, found: list[tuple[int, int | bytes]]) -> SdsMessage:
    numbers = _NUMBERS[form]
    single: dict[int, bytes] = {}
    lamport: int | None = 0 if form == NIM else None
    history: list[HistoryEntry] = []
    repairs: list[HistoryEntry] = []
    for number, value in found:
        if isinstance(value, int):
            if number == numbers.lamport:
                lamport = value
        elif number == numbers.history:
            history.append(_decode_entry(value))
        elif number == numbers.repair:
            repairs.append(_decode_entry(value))
        else:
            single[number] = value
    name = _identifier(single.get(numbers.message, b""), "message id")
    if max(len(history), len(repairs)) > MAX_ENTRIES:
        raise SdsError(f"{max(len(history), len(repairs))} entries of history or repair requests")
    return SdsMessage(
        form,
        name,
        _identifier(single.get(numbers.channel, b""), "channel id"),
        text(_short(single.get(numbers.sender, b""), "sender id")),
        lamport,
        tuple(history),
        single.get(numbers.bloom, b""),
        single.get(numbers.content, b""),
        tuple(repairs),
    )


def _identifier(value: bytes, name: str) -> str:
    if not value:
        raise SdsError(f"an empty {name}")
    return text(_short(value, name))


def _short(value: bytes, name: str, most: int = MAX_ID) -> bytes:
    if len(value) > most:
        raise SdsError(f"a {name} of {len(value)} bytes")
    return value


def _decode_entry(value: bytes) -> HistoryEntry:
    """Decode an entry, or the plain id that early nim-sds wrote in its place."""
    # Entries are most of a message's fields, and nearly all look like this: short parts in ascending order.
    size, parts, at = len(value), [b"", b"", b""], 0
    for number, tag in enumerate(b"\x0a\x12\x1a"):
        if at + 1 < size and value[at] == tag and value[at + 1] < 0x80:
            end = at + 2 + value[at + 1]
            parts[number] = value[at + 2 : end]
            at = end
    if at != size or not parts[0]:
        return _decode_any_entry(value)
    return HistoryEntry(text(parts[0]), parts[1], text(parts[2]))


def _decode_any_entry(value: bytes) -> HistoryEntry:
    _short(value, "reference", 4 * MAX_ID)
    try:
        single = {number: part for number, part in fields(value) if isinstance(part, bytes)}
        name = _identifier(single.get(1, b""), "message id")
        sender = text(_short(single.get(3, b""), "sender id"))
        return HistoryEntry(name, _short(single.get(2, b""), "hint"), sender)
    except (ProtobufError, SdsError):
        return HistoryEntry(_identifier(value, "message id"))
