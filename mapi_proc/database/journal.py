"""Rows of the journal: consecutive events of one app and batch in one, since a row for each event would be
most of what a commit costs.

A row's key is that of its last event. Alone, an event stands in it as its two frames; of several, the headers
lie one behind the other, the payloads likewise, and `sizes` tells the length of each. An acknowledgement
within a row leaves the row: readers ask for the events after a seq.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from mapi_proc.database.records import DamagedRowError, JournalEntry, Row

SEQ_BITS: Final = 40
"""A journal key is `app id << 40 | seq`: one integer b-tree holds each app's events next to each other, in
order.
"""

SEQ_MASK: Final = (1 << SEQ_BITS) - 1

COLUMNS: Final = (
    "CAST(header AS BLOB)",
    "CAST(coalesce(payload, data) AS BLOB)",
    "CAST(sizes AS BLOB)",
)
"""What `events_of` reads, of journal and payload. Damage that makes text of bytes leaves what they are."""

ROW_BYTES: Final = 64 << 10
"""Most bytes of events in a row of several: it is read as a whole, and goes as a whole."""

_SIZE: Final = 4


class JournalRow:
    """A row that is being filled."""

    __slots__ = ("_headers", "_payload_id", "_payloads", "app_id", "cost", "last", "time")

    def __init__(
        self, app_id: int, seq: int, time: int, header: bytes, payload: bytes, payload_id: int = 0
    ) -> None:
        """Begin with the event `seq` of an app. With a `payload_id` its payload is stored under that id, and
        the event stays alone."""
        self.app_id = app_id
        self.last = seq
        self.time = time
        self.cost = len(header) + len(payload)
        self._payload_id = payload_id
        self._headers = [header]
        self._payloads = [payload]

    def add(self, seq: int, time: int, header: bytes, payload: bytes) -> bool:
        """Take the next event. Return False if it needs a row of its own."""
        cost = self.cost + len(header) + len(payload)
        if seq != self.last + 1 or cost > ROW_BYTES or self._payload_id:
            return False
        self.last = seq
        self.time = max(self.time, time)
        self.cost = cost
        self._headers.append(header)
        self._payloads.append(payload)
        return True

    def columns(self) -> Row:
        """Return what is stored: key, time, cost, payload id, header, payload, sizes."""
        key, headers, payloads = self.app_id << SEQ_BITS | self.last, self._headers, self._payloads
        if self._payload_id:
            return key, self.time, self.cost, self._payload_id, headers[0], None, None
        if len(headers) == 1:
            return key, self.time, self.cost, None, headers[0], payloads[0], None
        sizes = struct.pack(f"<{2 * len(headers)}I", *map(len, headers), *map(len, payloads))
        return key, self.time, self.cost, None, b"".join(headers), b"".join(payloads), sizes


def events_of(
    last: int, headers: bytes | None, payloads: bytes | None, sizes: bytes | None, after: int = 0
) -> Iterator[JournalEntry]:
    """Read the events of a row whose last one is `last`, in order, those after `after`. Raises
    `DamagedRowError`, before the first one."""
    if headers is None or payloads is None:
        raise DamagedRowError(last, "header or payload is missing")
    if sizes is None:
        if last > after:
            yield JournalEntry(last, headers, payloads)
        return
    of_headers, of_payloads = _lengths(sizes)
    count = len(of_headers)
    if (sum(of_headers), sum(of_payloads)) != (len(headers), len(payloads)):
        raise DamagedRowError(last, f"{len(headers)} and {len(payloads)} B are not {count} events")
    over = max(0, after - last + count)
    header, payload = sum(of_headers[:over]), sum(of_payloads[:over])
    for at in range(over, count):
        end, payload_end = header + of_headers[at], payload + of_payloads[at]
        yield JournalEntry(last - count + 1 + at, headers[header:end], payloads[payload:payload_end])
        header, payload = end, payload_end


def cost_up_to(seq: int, last: int, cost: int, sizes: bytes) -> int:
    """Return the bytes of a row's events up to `seq`, out of `cost`. Raises `DamagedRowError`."""
    of_headers, of_payloads = _lengths(sizes)
    count = len(of_headers)
    if sum(of_headers) + sum(of_payloads) != cost:
        raise DamagedRowError(last, f"{count} events have not {cost} B")
    over = max(0, seq - last + count)
    return sum(of_headers[:over]) + sum(of_payloads[:over])


def _lengths(sizes: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the lengths of the events' headers, and of their payloads."""
    count = len(sizes) // (2 * _SIZE)
    both = struct.unpack_from(f"<{2 * count}I", sizes)
    return both[:count], both[count:]
