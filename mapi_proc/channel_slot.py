"""The place of reliable channels in a Messaging API: nothing of them is loaded before one is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mapi_proc.apps import App
from mapi_proc.network import AppNetwork

if TYPE_CHECKING:
    from mapi_proc.channels.service import ChannelService


class ChannelSlot:
    """Makes the service when it is first asked for, and passes on what concerns it."""

    def __init__(self, make: Callable[[], ChannelService]) -> None:
        self._make = make
        self._made = asyncio.Event()
        self._online = False
        self.service: ChannelService | None = None

    def get(self) -> ChannelService:
        if self.service is None:
            self.service = self._make()
            self.service.set_online(self._online)
            self._made.set()
        return self.service

    def set_online(self, online: bool) -> None:
        """Record whether the kernel is reachable."""
        self._online = online
        if self.service is not None:
            self.service.set_online(online)

    def wake(self) -> None:
        """Retry at once: peers appeared."""
        if self.service is not None:
            self.service.wake()

    def adopt(self, network: AppNetwork) -> None:
        if self.service is not None:
            self.service.adopt(network)

    def drop(self, app: App) -> None:
        """Close the channels of an app that is gone."""
        if self.service is not None:
            self.service.drop(app)

    def figures(self) -> dict[str, object] | None:
        """Return `channels` of control's `health`; None while there are none."""
        return None if self.service is None else self.service.figures()

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._made.wait()
        await self.get().run()
