"""Keep the list of connected service peers: polled at intervals, and soon after the kernel's health
changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel.methods import PEERS_LIST, PeersListReply
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import ServicePeers

log = logging.getLogger(__name__)

_EVERY_S: Final = 10.0
_PAUSE_S: Final = 1.0


@dataclass(eq=False)
class PeerWatch:
    """`await run()` until cancelled."""

    link: KernelLink
    peers: ServicePeers
    appeared: Callable[[], Awaitable[None]]
    """Awaited before the first list of a kernel that came up."""
    changed: Callable[[], None]
    """Called after each new list."""
    grown: Mapping[tuple[str, ...], Sequence[Callable[[], None]]]
    """By protocols: called when a peer serves them that did not before."""

    def __post_init__(self) -> None:
        self._look = asyncio.Event()

    def look(self) -> None:
        """Refresh the list soon: it may have changed."""
        self._look.set()

    async def run(self) -> None:
        """Keep the list until cancelled."""
        met = False
        while True:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            if not self.link.up:
                self.peers.update(())
                met = False
                continue
            try:
                reply = await self.link.request(PEERS_LIST)
                listed = PeersListReply.from_body(reply.body).peers
            except IpcError as error:
                log.debug("peers of the kernel: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            if not met:
                await self.appeared()
                met = True
            before = {protocols: self.peers.serving(protocols) for protocols in self.grown}
            self.peers.update(listed)
            self.changed()
            for protocols, callbacks in self.grown.items():
                if not self.peers.serving(protocols) <= before[protocols]:
                    for callback in callbacks:
                        callback()
