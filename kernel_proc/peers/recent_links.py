"""Remember across a restart which peers the node was connected to a moment ago.

nim-libp2p starts an unannounced back-off for a peer that disconnects; so the relay must know after a restart,
even after kill -9, which peers may keep one. The file is small and rewritten while the node runs; it is not
synced, because its contents matter for about a minute only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from ipc_schema.steady import Stamp
from kernel_proc.p2p.api import EndCause, HostEvents, PeerConnection, PeerIdText
from kernel_proc.peers.clock import PeerClock
from logos_process.files import read_json, replace_file

log = logging.getLogger(__name__)

VERSION: Final = 1
KEPT: Final = 90.0
"""Seconds during which a lost link matters: longer than any back-off."""
PERIOD: Final = 10.0
"""Seconds between writes; a link may have been lost this much later than the file says."""
PERIOD_AFTER_CHANGE: Final = 1.0
MAX_LOST: Final = 1024
MAX_FILE: Final = 1024 * 1024


class RecentLinks(HostEvents):
    """A host listener. Call `restore`, then `run`; without `path` nothing is stored."""

    def __init__(self, path: Path | None, clock: PeerClock) -> None:
        self._path = path
        self._clock = clock
        self._connected: set[PeerIdText] = set()
        self._lost: dict[PeerIdText, float] = {}
        self._changed = trio.Event()
        self._refused = False

    # --- host events ---

    def peer_connected(self, connection: PeerConnection) -> None:
        self._connected.add(connection.peer_id)
        self._lost.pop(connection.peer_id, None)
        self._changed.set()

    def peer_disconnected(self, peer_id: PeerIdText, reason: str, cause: EndCause = EndCause.OTHER) -> None:  # noqa: ARG002 - HostEvents
        """Record when the link was lost."""
        self._connected.discard(peer_id)
        self._lost.pop(peer_id, None)
        self._lost[peer_id] = self._clock()
        if len(self._lost) > MAX_LOST:
            del self._lost[next(iter(self._lost))]
        self._changed.set()

    # --- persistence ---

    def restore(self, was_linked: Callable[[PeerIdText, float], None]) -> None:
        """Report each peer of the previous run with the minimum seconds since its link was lost."""
        if self._path is None:
            return
        try:
            content = read_json(self._path, version=VERSION, max_bytes=MAX_FILE)
            age = self._clock.age(Stamp.from_dict(content["stamp"]))
            links = [(str(peer), float(before)) for peer, before in content["peers"].items()]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            # It is replaced within seconds; the worst case is a premature GRAFT to some peer.
            log.warning("ignoring unreadable %s: %s", self._path, error)
            return
        for peer_id, before in links:
            since = age + before - PERIOD
            if since < KEPT:  # also False for NaN
                was_linked(peer_id, max(0.0, since))

    async def run(self) -> None:
        """Keep the file current until cancelled."""
        if self._path is None:
            return
        try:
            while True:
                self._changed = trio.Event()
                with trio.move_on_after(PERIOD):
                    await self._changed.wait()
                    await trio.sleep(PERIOD_AFTER_CHANGE)
                await trio.to_thread.run_sync(self._write, self._content())
        finally:
            self.save()

    def save(self) -> None:
        """Write the file now."""
        self._write(self._content())

    def _content(self) -> dict[str, Any]:
        now = self._clock()
        self._lost = {peer: then for peer, then in self._lost.items() if now - then < KEPT}
        peers = dict.fromkeys(sorted(self._connected), 0.0)
        peers |= {peer: now - then for peer, then in self._lost.items()}
        return {"version": VERSION, "stamp": self._clock.stamp().to_dict(), "peers": peers}

    def _write(self, content: dict[str, Any]) -> None:
        if self._path is None:
            return
        try:
            replace_file(self._path, json.dumps(content))
        except OSError as error:
            if not self._refused:
                log.warning("cannot save recent links in %s: %s", self._path, error)
            self._refused = True
        else:
            self._refused = False
