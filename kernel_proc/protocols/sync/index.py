"""The sync ids of the messages that we have, in order, with fingerprints of any range. Pure.

Keys are packed into blocks of up to a thousand, each with the XOR of its hashes: 1 M messages take 60 MB
instead of the 230 MB of Python objects, and the fingerprint of a range costs two partial blocks and one
XOR for each whole block between them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from kernel_proc.protocols.sync.keys import HASH_SIZE, KEY_SIZE, SyncKey, key_at

BLOCK: Final = 1024
"""Most keys of a block. A full one is split in two halves."""
_HASHES: Final = (1 << 8 * HASH_SIZE) - 1


class RangeSummary(NamedTuple):
    """How many messages there are in a range, and the XOR of their hashes as a big-endian number."""

    size: int
    fingerprint: int


def _fold(packed: bytes | bytearray | memoryview) -> int:
    """Return the XOR of the hashes in packed keys.

    Halving one long number is 20 times as fast as one number for each key.
    """
    count = len(packed) // KEY_SIZE
    value = int.from_bytes(packed, "big")
    while count > 1:
        half = count // 2
        bits = half * KEY_SIZE * 8
        value = (value >> bits) ^ (value & ((1 << bits) - 1))
        count -= half
    return value & _HASHES


def fingerprint_of(keys: Iterable[SyncKey]) -> int:
    return _fold(b"".join(keys))


class _Block:
    __slots__ = ("fingerprint", "packed")

    def __init__(self, packed: bytearray) -> None:
        self.packed = packed
        self.fingerprint = _fold(packed)

    def __len__(self) -> int:
        return len(self.packed) // KEY_SIZE

    def key(self, at: int) -> SyncKey:
        return bytes(self.packed[at * KEY_SIZE : (at + 1) * KEY_SIZE])

    def position(self, key: SyncKey, *, behind: bool = False) -> int:
        """Return where the key belongs: in front of an equal one, or `behind` it."""
        packed = self.packed
        if behind:
            key += b"\0"  # above the key, below any other
        low, high = 0, len(packed)
        while low < high:
            middle = (low + high) // (2 * KEY_SIZE) * KEY_SIZE
            if packed[middle : middle + KEY_SIZE] < key:
                low = middle + KEY_SIZE
            else:
                high = middle
        return low // KEY_SIZE


class KeyIndex:
    """The messages of one pubsub topic."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._firsts: list[SyncKey] = []
        """The first key of each block."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: SyncKey) -> bool:
        """Add a key. Return False if it is there already."""
        if not self._blocks:
            self._insert_block(0, _Block(bytearray(key)))
            self._count = 1
            return True
        number = max(0, bisect_right(self._firsts, key) - 1)
        block = self._blocks[number]
        if key > block.packed[-KEY_SIZE:]:  # nearly always: new messages are the newest
            at = len(block)
            block.packed += key
        else:
            at = block.position(key)
            if block.key(at) == key:
                return False
            block.packed[at * KEY_SIZE : at * KEY_SIZE] = key
        block.fingerprint ^= int.from_bytes(key[8:], "big")
        if at == 0:
            self._firsts[number] = key
        if len(block) > BLOCK:
            self._split(number)
        self._count += 1
        return True

    def remove(self, key: SyncKey) -> bool:
        """Remove a key. Return False if it is not there."""
        number = bisect_right(self._firsts, key) - 1
        if number < 0:
            return False
        block = self._blocks[number]
        at = block.position(key)
        if at == len(block) or block.key(at) != key:
            return False
        del block.packed[at * KEY_SIZE : (at + 1) * KEY_SIZE]
        block.fingerprint ^= int.from_bytes(key[8:], "big")
        self._count -= 1
        if not block.packed:
            del self._blocks[number], self._firsts[number]
        elif at == 0:
            self._firsts[number] = block.key(0)
        return True

    def remove_before(self, timestamp: int) -> int:
        """Remove everything older. Return how many keys that were."""
        bound = key_at(timestamp)
        whole = max(0, bisect_left(self._firsts, bound) - 1)
        removed = sum(map(len, self._blocks[:whole]))
        del self._blocks[:whole], self._firsts[:whole]
        if self._blocks:
            first = self._blocks[0]
            at = first.position(bound)
            removed += at
            del first.packed[: at * KEY_SIZE]
            if first.packed:
                first.fingerprint = _fold(first.packed)
                self._firsts[0] = first.key(0)
            else:
                del self._blocks[0], self._firsts[0]
        self._count -= removed
        return removed

    @property
    def oldest(self) -> SyncKey | None:
        return self._firsts[0] if self._firsts else None

    # --- what a session compares; both bounds are inclusive, as in nwaku ---

    def summary(self, low: SyncKey, high: SyncKey) -> RangeSummary:
        """Return the number of keys and their fingerprint."""
        count = fingerprint = 0
        for block, start, end in self._parts(low, high):
            count += end - start
            if end - start == len(block):
                fingerprint ^= block.fingerprint
            else:
                fingerprint ^= _fold(block.packed[start * KEY_SIZE : end * KEY_SIZE])
        return RangeSummary(count, fingerprint)

    def keys(self, low: SyncKey, high: SyncKey) -> list[SyncKey]:
        found: list[SyncKey] = []
        for block, start, end in self._parts(low, high):
            packed = bytes(block.packed[start * KEY_SIZE : end * KEY_SIZE])
            found += [packed[at : at + KEY_SIZE] for at in range(0, len(packed), KEY_SIZE)]
        return found

    def _parts(self, low: SyncKey, high: SyncKey) -> Iterable[tuple[_Block, int, int]]:
        """Yield the blocks of a range with the positions in each."""
        if low > high:
            return
        start = max(0, bisect_right(self._firsts, low) - 1)
        end = bisect_right(self._firsts, high)
        for number in range(start, end):
            block = self._blocks[number]
            left = block.position(low) if number == start else 0
            right = block.position(high, behind=True) if number == end - 1 else len(block)
            if left < right:
                yield block, left, right

    # --- blocks ---

    def _insert_block(self, number: int, block: _Block) -> None:
        self._blocks.insert(number, block)
        self._firsts.insert(number, block.key(0))

    def _split(self, number: int) -> None:
        packed = self._blocks[number].packed
        # New messages come in at the end: fill the blocks behind us, or each stays half empty.
        last = number == len(self._blocks) - 1
        middle = (BLOCK if last else BLOCK // 2) * KEY_SIZE
        self._blocks[number] = _Block(packed[:middle])
        self._insert_block(number + 1, _Block(packed[middle:]))


class MergedView:
    """Several indexes as one. Their keys are disjoint: the hash covers the pubsub topic."""

    def __init__(self, parts: Sequence[KeyIndex]) -> None:
        self._parts = parts

    def summary(self, low: SyncKey, high: SyncKey) -> RangeSummary:
        """Return the number of keys and their fingerprint."""
        count = fingerprint = 0
        for part in self._parts:
            found = part.summary(low, high)
            count += found.size
            fingerprint ^= found.fingerprint
        return RangeSummary(count, fingerprint)

    def keys(self, low: SyncKey, high: SyncKey) -> list[SyncKey]:
        return sorted(key for part in self._parts for key in part.keys(low, high))


KeyView = KeyIndex | MergedView
