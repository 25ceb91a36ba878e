from __future__ import annotations

from kernel_proc.archive.recent import BYTES, SECONDS, RecentRows
from kernel_proc.archive.rows import ROW_OVERHEAD, ArchivedRow


def group(number: int, size: int = 100) -> list[ArchivedRow]:
    return [ArchivedRow(number, number.to_bytes(32), 0, "/p", "/c", bytes(size))]


def numbers(recent: RecentRows) -> list[int]:
    return [row.timestamp for rows in recent for row in rows]


def is_short(recent: RecentRows) -> bool:
    """Asked each time: mypy takes an attribute for unchanged."""
    return recent.is_short


def test_the_last_minute_before_the_latest_group_is_kept() -> None:
    recent = RecentRows()
    for number in range(200):
        recent.add(group(number), float(number))
    assert numbers(recent) == list(range(199 - int(SECONDS), 200))
    assert not is_short(recent)
    recent.add(group(1000), 1e6)
    assert numbers(recent) == [1000]
    assert not is_short(recent)


def test_less_than_a_minute_is_kept_for_want_of_room_and_said_so() -> None:
    recent = RecentRows()
    size = BYTES // 10 - ROW_OVERHEAD
    for number in range(25):
        recent.add(group(number, size), float(number))
    assert numbers(recent) == list(range(15, 25))
    assert is_short(recent)
    for number in range(25, 100):
        recent.add(group(number), float(number))
    assert not is_short(recent)
    recent.add(group(100, BYTES + 1), 100.0)
    assert numbers(recent) == []
    assert is_short(recent)
