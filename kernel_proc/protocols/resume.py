"""`StoreResume`: at start, fetch what the archive missed from other stores, while the node already runs.

For each pubsub topic from its newest archived message on: a first store is read in full, further ones by
hashes, of which the missing ones are fetched: a store may have been down itself. Every message is verified
against its hash by the store client, and archived whatever its age.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from ipc_schema.message import WakuMessage
from kernel_proc.archive.api import (
    MAX_TIMESTAMP_DISTANCE_NS,
    ArchiveError,
    HistoryQuery,
    KeyQuery,
)
from kernel_proc.archive.service import MessageArchive
from kernel_proc.metrics import Registry
from kernel_proc.p2p.api import PeerIdText
from kernel_proc.protocols.peer_select import ServicePeerChoice
from kernel_proc.protocols.requests import AllFailed
from kernel_proc.protocols.resume_plan import ResumeGap, load_gaps, plan_gaps, save_gaps
from kernel_proc.protocols.store_client import CLIENT_PROTOCOLS, Found, History, StoreClient
from logos_process.logs import fields

log = logging.getLogger(__name__)

SERVICE: Final = "store"
PAGE: Final = 100
PATIENCE: Final = 30.0
STORES: Final = 3
"""Stores that are asked for each topic, if so many are connected."""
LOOK: Final = 0.5
PLAN_SECONDS: Final = 60.0
"""After which new messages are written even if the archive cannot be read."""
COVERED_SECONDS: Final = 60.0
"""How long to wait for relay peers after the first pass."""
SAVE_SECONDS: Final = 1.0
EXPECT_SECONDS: Final = 30.0
"""How long to wait, after the first store has answered, for configured peers that are not connected yet."""
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 60.0
_MIN_KEY: Final = (-(1 << 63), b"")


class ResumeState(StrEnum):
    """Progress of a resume."""

    OFF = "off"
    PLANNING = "planning"
    WAITING = "waiting"
    """No store could be asked yet, or all that were failed."""
    FETCHING = "fetching"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeScope:
    """What a complete archive holds."""

    topics: Callable[[], dict[str, int]]
    """Return the pubsub topics that the node archives, and their shards."""
    is_covered: Callable[[str], bool]
    """Return whether messages of a topic arrive by relay now."""
    is_expecting: Callable[[], bool]
    """Return whether a configured peer has not yet told what it serves."""
    is_signed: Callable[[str, WakuMessage], bool]
    """Return whether a message is signed as its shard demands."""
    keeps: int | None
    """The retention time in seconds."""


class StoreResume:
    """`run` it beside the archive, which writes nothing until the plan is made. `clock`: the wall clock in
    ns."""

    def __init__(
        self,
        client: StoreClient,
        peers: ServicePeerChoice,
        archive: MessageArchive,
        registry: Registry,
        path: Path,
        scope: ResumeScope,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._client = client
        self._peers = peers
        self._archive = archive
        self._path = path
        self._scope = scope
        self._keeps_ns = None if scope.keeps is None else scope.keeps * 1_000_000_000
        self._clock = clock
        self._fetched = registry.counter("store_resume_messages")
        self._errors = partial(registry.counter, "store_resume_errors")
        self._planned = trio.Event()
        self._saved = float("-inf")
        self._expect_until: float | None = None
        self.state = ResumeState.PLANNING
        self.gaps: list[ResumeGap] = []
        """What is left; empty when it is done."""
        self.added = 0
        """Messages that the archive did not have."""
        self.error = ""
        """Why it waits."""
        archive.hold_writes(self._planned)

    async def run(self) -> None:
        """Fetch, then do nothing until cancelled."""
        started = self._clock()
        with trio.move_on_after(PLAN_SECONDS) as scope:
            await self._plan(started)
        self._planned.set()
        if scope.cancelled_caught:
            self.error = "the archive cannot be read"
            log.error("store resume given up", extra=fields(reason=self.error))
        else:
            await self._fetch_all()
        self.state = ResumeState.DONE
        log.info("store resume ended", extra=fields(messages=self.added, error=self.error))
        await trio.sleep_forever()

    # --- the plan ---

    async def _plan(self, now: int) -> None:
        unfinished = await trio.to_thread.run_sync(load_gaps, self._path)
        newest: dict[str, int | None] = {}
        # Whatever is written from now on is younger than this: it would not have been accepted otherwise.
        high = (now - MAX_TIMESTAMP_DISTANCE_NS, b"")
        for topic in self._scope.topics():
            found = await self._patiently(KeyQuery(topic, _MIN_KEY, high, 1, forward=False))
            newest[topic] = found[0][0] if found else None
        self.gaps = plan_gaps(newest, unfinished, now=now, keeps_ns=self._keeps_ns)
        await self._save()

    async def _patiently(self, query: KeyQuery) -> list[tuple[int, bytes]]:
        while True:
            try:
                return await self._archive.keys(query)
            except ArchiveError:
                await trio.sleep(LOOK)

    async def _save(self) -> None:
        try:
            await trio.to_thread.run_sync(save_gaps, self._path, list(self.gaps))
        except OSError as error:
            self._errors(type="save").add()
            log.warning("cannot save what is left to fetch", extra=fields(reason=error))

    # --- fetching ---

    async def _fetch_all(self) -> None:
        while True:
            began, shards = self._clock(), self._scope.topics()
            covered = all(map(self._scope.is_covered, shards))
            for gap in list(self.gaps):
                await self._fetch(gap, shards.get(gap.pubsub_topic), until=began + MAX_TIMESTAMP_DISTANCE_NS)
                self.gaps.remove(gap)
                await self._save()
            if covered:
                return
            # What came between the answers of the stores and our first relay peer is missing as well.
            for _ in range(int(COVERED_SECONDS / LOOK)):
                if all(map(self._scope.is_covered, self._scope.topics())):
                    break
                await trio.sleep(LOOK)
            start = began - 2 * MAX_TIMESTAMP_DISTANCE_NS
            if not all(map(self._scope.is_covered, self._scope.topics())):
                return  # alone, or with nothing to relay: nothing comes that could be missed
            self.gaps = [ResumeGap(topic, start, start) for topic in shards]
            await self._save()

    async def _fetch(self, gap: ResumeGap, shard: int | None, until: int) -> None:
        """Fetch one gap from the stores that there are, the first one in full."""
        pause = FIRST_PAUSE
        asked: list[PeerIdText] = []
        while len(asked) < STORES:
            stores = self._peers.choose(SERVICE, CLIENT_PROTOCOLS, shard)
            fresh = [peer_id for peer_id in stores if peer_id not in asked]
            if not fresh:
                # At start the connections come one after another, so the first store may have answered before
                # the next one is known to be a store.
                if asked and not self._expects_more():
                    return
                if not asked:
                    self.state, self.error = ResumeState.WAITING, "no connected peer serves store"
                await trio.sleep(LOOK)
                continue
            try:
                self.state = ResumeState.FETCHING
                if not asked:
                    await self._read_all(fresh[0], gap, shard, until)
                else:
                    await self._read_missing(fresh[0], gap, shard, until)
            except (AllFailed, ArchiveError) as error:
                self._errors(type=type(error).__name__).add()
                self.state, self.error = ResumeState.WAITING, str(error)
                log.debug("store resume", extra=fields(peer=fresh[0], reason=str(error)))
                if asked:
                    asked.append(fresh[0])  # one answer is there: this one need not be waited for
                    continue
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                asked.append(fresh[0])
                self.error = ""

    def _expects_more(self) -> bool:
        """Return whether further stores may turn up soon. Down or no store, a peer is waited for once."""
        if self._expect_until is None:
            self._expect_until = trio.current_time() + EXPECT_SECONDS
        return trio.current_time() < self._expect_until and self._scope.is_expecting()

    async def _read_all(self, peer_id: PeerIdText, gap: ResumeGap, shard: int | None, until: int) -> None:
        async def take(page: History) -> None:
            await self._add(gap.pubsub_topic, page.messages)
            times = [found.message.timestamp for found in page.messages if found.message is not None]
            gap.done = max([gap.done, *times])
            if trio.current_time() >= self._saved + SAVE_SECONDS:
                await self._archive.flush()
                await self._save()
                self._saved = trio.current_time()

        await self._read_pages(peer_id, gap, shard, take, start=gap.done, end=until, include_data=True)

    async def _read_missing(self, peer_id: PeerIdText, gap: ResumeGap, shard: int | None, until: int) -> None:
        async def take(page: History) -> None:
            missing = await self._missing([found.message_hash for found in page.messages])
            if missing:
                wanted = HistoryQuery(
                    pubsub_topic=gap.pubsub_topic, hashes=tuple(missing), limit=PAGE, include_data=True
                )
                await self._add(gap.pubsub_topic, (await self._ask(peer_id, wanted, shard)).messages)

        await self._read_pages(peer_id, gap, shard, take, start=gap.start, end=until)

    async def _read_pages(
        self,
        peer_id: PeerIdText,
        gap: ResumeGap,
        shard: int | None,
        take: Callable[[History], Awaitable[None]],
        **query: Any,
    ) -> None:
        """Pass all pages of a query to `take`, one after another."""
        cursor: bytes | None = None
        while True:
            wanted = HistoryQuery(
                pubsub_topic=gap.pubsub_topic, forward=True, limit=PAGE, cursor=cursor, **query
            )
            page = await self._ask(peer_id, wanted, shard)
            await take(page)
            cursor = page.cursor
            if cursor is None:
                await self._archive.flush()
                return

    async def _ask(self, peer_id: PeerIdText, query: HistoryQuery, shard: int | None) -> History:
        deadline = trio.current_time() + PATIENCE
        return await self._client.query(query, peer=peer_id, shard=shard, deadline=deadline)

    async def _missing(self, hashes: Sequence[bytes]) -> list[bytes]:
        if not hashes:
            return []
        page = await self._archive.query(HistoryQuery(hashes=tuple(hashes), limit=PAGE))
        known = {found.message_hash for found in page.messages}
        return [digest for digest in hashes if digest not in known]

    async def _add(self, topic: str, messages: Sequence[Found]) -> None:
        missing = set(await self._missing([found.message_hash for found in messages]))
        for found in messages:
            if found.message_hash not in missing or found.message is None:
                continue
            if not self._scope.is_signed(topic, found.message):
                self._errors(type="unsigned").add()
            elif await self._archive.insert(topic, found.message, found.message_hash):
                self.added += 1
                self._fetched.add()
