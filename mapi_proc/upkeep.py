"""Periodic upkeep: bounds of age and size, eviction of old hashes and request ids, absent apps."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from ipc_schema.config.mapi import AppOptions
from ipc_schema.steady import SteadyClock
from mapi_proc.apps import AppRegistry
from mapi_proc.apps.lifecycle import AppLifecycle
from mapi_proc.clocks import CLOCK_NOTE, Clocks, WallClockSteps
from mapi_proc.database import Batch, Database
from mapi_proc.kernel_link.positions import Positions
from mapi_proc.receive.catchup import OVERLAP_NS, CatchUp
from mapi_proc.receive.dedup import Dedup
from mapi_proc.receive.delivered_bounds import DeliveredCount
from mapi_proc.send.service import SendService
from mapi_proc.streams import AppStream, DurableStream
from mapi_proc.subscriptions import SubscriptionTable
from mapi_proc.write_batch import Turn

log = logging.getLogger(__name__)

_TICK_S: Final = 1.0
_UPKEEP_S: Final = 5.0
_EVICT_DELIVERED_EVERY_S: Final = 600.0
_SEEN_S: Final = 3600.0
"""How old a connected app's last-seen time on disk may get."""
_STAMP_S: Final = 60.0
"""How old the clock's stamp on disk may get: after a reboot of the host, this much time is unknown."""
_GRACE_S: Final = 3600.0
"""After our start an app has this long to come back, however long we were not running."""
_SECOND: Final = 1_000_000_000


def journal_bytes(apps: AppRegistry) -> int:
    """Estimate the bytes waiting in the journals of all named apps."""
    return sum(stream.stored_bytes for stream in _durable(apps))


def _durable(apps: AppRegistry) -> list[DurableStream]:
    return [app.stream for app in apps if isinstance(app.stream, DurableStream)]


@dataclass(kw_only=True, eq=False)
class Upkeep:
    """Enforces the bounds of these parts. `await run()` until cancelled."""

    options: AppOptions
    database: Database
    turn: Turn
    apps: AppRegistry
    lifecycle: AppLifecycle
    table: SubscriptionTable[AppStream]
    positions: Positions
    dedup: Dedup
    delivered_count: DeliveredCount
    catchup: CatchUp
    sends: SendService
    clocks: Clocks
    steady: SteadyClock

    def __post_init__(self) -> None:
        self._steps = WallClockSteps(self.clocks)
        self._stamp_at = self._evict_delivered_at = self.clocks.running()

    async def run(self) -> None:
        """Run until cancelled."""
        due = self.clocks.running() + _UPKEEP_S
        while True:
            await asyncio.sleep(_TICK_S)
            self.catchup.tick(self.table.shards)
            if self.clocks.running() >= due and not self.database.congested:
                due = self.clocks.running() + _UPKEEP_S
                self.keep()

    def keep(self) -> None:
        """Run one round."""
        now, batch = self.steady(), self.turn.batch
        if self.clocks.running() >= self._stamp_at:
            self._stamp_at = self.clocks.running() + _STAMP_S
            batch.note(CLOCK_NOTE, self.steady.stamp().to_note())
        self.dedup.evict(now, self._horizons(), batch)
        self._evict_delivered(now, batch)
        self.sends.keep_windows()
        self._keep_apps(now, batch)
        self._bound_journals(self.clocks.now_ns(), batch)

    def _evict_delivered(self, now: int, batch: Batch) -> None:
        """Evict delivered hashes that are too old or too many."""
        before = self.delivered_count.excess()
        if self.clocks.running() >= self._evict_delivered_at:
            self._evict_delivered_at = self.clocks.running() + _EVICT_DELIVERED_EVERY_S
            before = max(before or 0, now - int(self.options.app_expiry * _SECOND))
            self.delivered_count.forget(before)
        if before is not None:
            batch.evict_delivered(before)

    def _horizons(self) -> dict[int, int]:
        """Return, per shard, the moment before which no catch-up will ask again: newer hashes are kept."""
        horizons: dict[int, int] = {}
        for shard in self.table.shards:
            position = self.positions.of(shard)
            if position is not None:
                horizons[shard] = position.good_ns - OVERLAP_NS
        return horizons

    def _keep_apps(self, now: int, batch: Batch) -> None:
        expiry = self.options.app_expiry
        away, seen = now - int(expiry * _SECOND), now - int(min(_SEEN_S, expiry / 4) * _SECOND)
        could_come = self.clocks.running() - min(_GRACE_S, expiry / 10)
        step = self._steps.look()
        if step:
            log.warning("the wall clock was set by %.0f s", step / _SECOND)
        for app in self.apps:
            app.stream.expire(self.clocks.now_ns(), batch)
            if app.connection is not None:
                if app.durable and app.last_seen < seen:
                    app.last_seen = now
                    batch.app_seen(app.app_id, now)
            elif app.durable and app.last_seen < away and app.away_since < could_come:
                log.info("app %s was absent too long and is forgotten", app.name)
                self.lifecycle.drop(app)
                batch.forget_app(app.app_id)

    def _bound_journals(self, now: int, batch: Batch) -> None:
        """Bound all journals together: the largest is cut first, and its app is notified."""
        streams = _durable(self.apps)
        excess = sum(stream.stored_bytes for stream in streams) - self.options.journal_total_bytes
        while excess > 0:
            largest = max(streams, key=lambda stream: stream.stored_bytes)
            freed = largest.shrink(largest.stored_bytes - excess, now, batch)
            if not freed:
                return
            excess -= freed
