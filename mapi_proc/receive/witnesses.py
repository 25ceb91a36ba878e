"""Was a store there at the time it is asked about? If it was itself away, its answer "nothing" means
nothing.

The store protocol does not say since when a store has been running, and one that was restarted together
with our kernel looks, afterwards, like one that was never away. What can be known is taken as evidence:

- a store that has been connected to us since before the gap was there all the time;
- a store that holds messages of the shard (of any content topic) from the gap was there when they passed.
  Busy shards must show them in every part of the gap. If there are too few for that, the first half
  decides, because a store that went down with us has its hole where ours begins.

In a shard without traffic there is no evidence, and the gap remains in doubt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from mapi_proc.receive.stores import StorePeer

_COUNTED: Final = 100
"""One page of hashes."""
_A_SLICE: Final = 10
"""Average messages per slice of the gap: an empty slice by chance is then improbable (e^-10)."""
_SLICES: Final = 8
_SHORTEST_NS: Final = 1_000_000_000


async def witnessed(stores: Sequence[StorePeer], start_ns: int, end_ns: int, age_s: float) -> bool:
    """Return whether some of these stores, together, were there from `start_ns` to `end_ns`.

    `age_s`: how long ago that time span began.
    """
    if any(store.connected > age_s for store in stores):
        return True
    counts = await asyncio.gather(*(store.count(start_ns, end_ns, _COUNTED) for store in stores))
    return await _all_shown(stores, _slices(start_ns, end_ns, max((n or 0 for n in counts), default=0)))


def _slices(start_ns: int, end_ns: int, count: int) -> list[tuple[int, int]] | None:
    """Return the parts of a gap in which a store with `count` messages of it must have some.

    None: there is no evidence at all.
    """
    length = end_ns - start_ns
    if not count:
        return None
    if length < 2 * _SHORTEST_NS:
        return []
    parts = min(count // _A_SLICE, _SLICES, length // _SHORTEST_NS)
    if parts < 2:
        return [(start_ns, start_ns + length // 2)]
    bounds = [start_ns + length * part // parts for part in range(parts + 1)]
    return list(pairwise(bounds))


async def _all_shown(stores: Sequence[StorePeer], slices: list[tuple[int, int]] | None) -> bool:
    if slices is None:
        return False
    for start, end in slices:
        if not any(await asyncio.gather(*(store.count(start, end, 1) for store in stores))):
            return False
    return True
