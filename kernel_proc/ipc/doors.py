"""Admit clients, with trio: one task per door, and one that watches the memory."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from logos_sockets import TICK, Door, MemoryWatch
from logos_sockets.drain import DrainSocket


async def watch_doors(doors: Sequence[Door], sockets: Sequence[DrainSocket]) -> None:
    """Serve the doors of these sockets, given in the same order, until cancelled."""
    async with trio.open_nursery() as nursery:
        for door in doors:
            nursery.start_soon(_keep, door, name=f"ipc door {door.name}")
        memory = MemoryWatch(doors)
        while True:
            await trio.sleep(TICK)
            memory.step(trio.current_time())
            for door, socket in zip(doors, sockets, strict=True):
                socket.heard = door.heard.add if door.heard is not None else None


async def _keep(door: Door) -> None:
    while True:
        with trio.move_on_after(door.pause):
            descriptor = door.fileno
            if descriptor is None:
                await trio.sleep(door.pause)
            else:
                await trio.lowlevel.wait_readable(descriptor)
        door.step(trio.current_time())
