"""Nodes from signed lists in the DNS (EIP-1459): each list is read at start, again when it failed, and
refreshed for as long as the node runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from kernel_proc.discovery.dns_client import DnsFailure, Reading, TreeClient, TxtResolver
from kernel_proc.discovery.dns_tree import TreeError, TreeUrl, parse_url
from kernel_proc.discovery.enr import Enr
from logos_process.logs import fields

__all__ = ["DnsLists", "ListState"]

log = logging.getLogger(__name__)

REFRESH: Final = 1800.0
"""Seconds between two readings; EIP-1459 has roots live for minutes to hours."""
RETRY_FIRST: Final = 5.0
RETRY_HIGHEST: Final = 300.0


@dataclass(slots=True)
class ListState:
    """How reading one list went last. `read_at`: seconds since 1970, 0: not yet."""

    url: TreeUrl
    seq: int = 0
    records: int = 0
    read_at: float = 0.0
    error: str = ""


class DnsLists:
    """Reads the lists of `urls`; `found` gets every node record of theirs, and which list it was."""

    def __init__(
        self,
        urls: Sequence[str],
        resolver: Callable[[], TxtResolver],
        found: Callable[[Enr, TreeUrl], None],
        rng: Random,
    ) -> None:
        """Raises TreeError for an URL that is none. `resolver` is called when the first list is read."""
        self.lists = [ListState(parse_url(url)) for url in urls]
        self._make_resolver = resolver
        self._found = found
        self._rng = rng
        self._client: TreeClient | None = None
        self.readings = 0
        self.failures = 0

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for state in self.lists:
                nursery.start_soon(self._keep, state, name=f"list {state.url.domain}")

    async def _keep(self, state: ListState) -> None:
        delay = RETRY_FIRST
        while True:
            if await self.read(state):
                delay = RETRY_FIRST
                pause = REFRESH
            else:
                pause, delay = delay, min(RETRY_HIGHEST, 2 * delay)
            await trio.sleep(pause * self._rng.uniform(0.9, 1.1))

    async def read(self, state: ListState) -> bool:
        """Read one list; whether it had a root."""
        try:
            if self._client is None:
                self._client = TreeClient(self._make_resolver())
            reading: Reading = await self._client.read(
                state.url, lambda record: self._found(record, state.url)
            )
        except (DnsFailure, TreeError) as error:
            self.failures += 1
            if not state.error:
                log.warning("list not readable", extra=fields(list=state.url.domain, reason=str(error)))
            state.error = str(error)
            return False
        self.readings += 1
        if reading.seq != state.seq or reading.errors:
            log.info(
                "list read",
                extra=fields(
                    list=state.url.domain,
                    seq=reading.seq,
                    records=len(reading.records),
                    problems="; ".join(reading.errors),
                ),
            )
        state.seq, state.records, state.read_at = reading.seq, len(reading.records), time.time()
        state.error = "; ".join(reading.errors)
        return True
