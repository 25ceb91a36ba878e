"""Nodes from signed DNS lists (EIP-1459): read each list at start, retry failures, and refresh it
periodically."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from kernel_proc.discovery.dns_client import Reading, TreeClient
from kernel_proc.discovery.dns_resolver import DnsFailure, DnsTxtResolver
from kernel_proc.discovery.dns_tree import TreeError, TreeUrl, parse_url
from kernel_proc.discovery.enr import Enr
from logos_process.logs import fields

log = logging.getLogger(__name__)

REFRESH: Final = 1800.0
"""Seconds between readings. EIP-1459 expects roots to have a TTL of minutes to hours."""
RETRY_FIRST: Final = 5.0
RETRY_HIGHEST: Final = 300.0


@dataclass(slots=True)
class ListState:
    """The outcome of the last reading. `read_at`: seconds since the Unix epoch, 0: never."""

    url: TreeUrl
    seq: int = 0
    records: int = 0
    read_at: float = 0.0
    error: str = ""


class DnsLists:
    """Read the lists of `urls`; `found` gets each node record and the list it came from."""

    def __init__(
        self,
        urls: Sequence[str],
        resolver: Callable[[], DnsTxtResolver],
        found: Callable[[Enr, TreeUrl], None],
        rng: Random,
    ) -> None:
        """Raise TreeError for an invalid URL. `resolver` is called when the first list is read."""
        self.lists = [ListState(parse_url(url)) for url in urls]
        self._make_resolver = resolver
        self._found = found
        self._rng = rng
        self._client: TreeClient | None = None
        self.readings = 0
        self.failures = 0
        self.bad_records = 0
        """Entries that could not be read, in lists that could."""

    async def run(self) -> None:
        """Run until cancelled."""
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
        """Read one list. Return whether it has a valid root."""
        try:
            if self._client is None:
                self._client = TreeClient(self._make_resolver())
            reading: Reading = await self._client.read(
                state.url, lambda record: self._found(record, state.url)
            )
        except (DnsFailure, TreeError) as error:
            self.failures += 1
            if not state.error:
                log.warning(
                    "cannot read DNS node list", extra=fields(list=state.url.domain, reason=str(error))
                )
            state.error = str(error)
            return False
        self.readings += 1
        self.bad_records += len(reading.errors)
        if reading.seq != state.seq or reading.errors:
            log.info(
                "DNS node list read",
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
