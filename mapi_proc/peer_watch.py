"""Keep the list of connected service peers: polled at intervals, and soon after the kernel's health
changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from ipc_schema.errors import IpcError
from ipc_schema.kernel.methods import PEERS_LIST, PeersListReply
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import ServicePeers

log = logging.getLogger(__name__)

_EVERY_S: Final = 10.0
_PAUSE_S: Final = 1.0


class PeerWatch:
    """`await run()` until cancelled."""

    def __init__(
        self,
        link: KernelLink,
        peers: ServicePeers,
        *,
        appeared: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        grown: Mapping[tuple[str, ...], Sequence[Callable[[], None]]],
    ) -> None:
        """`appeared()` is awaited before the first list of a kernel that came up.

        `changed()` is called after each new list; `grown[protocols]` when a peer serves them that did not
        before.
        """
        self._link = link
        self._peers = peers
        self._appeared = appeared
        self._changed = changed
        self._grown = grown
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
            if not self._link.up:
                self._peers.update(())
                met = False
                continue
            try:
                reply = await self._link.request(PEERS_LIST)
                listed = PeersListReply.from_body(reply.body).peers
            except IpcError as error:
                log.debug("peers of the kernel: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            if not met:
                await self._appeared()
                met = True
            before = {protocols: self._peers.serving(protocols) for protocols in self._grown}
            self._peers.update(listed)
            self._changed()
            for protocols, callbacks in self._grown.items():
                if not self._peers.serving(protocols) <= before[protocols]:
                    for callback in callbacks:
                        callback()
