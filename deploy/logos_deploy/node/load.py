"""Put load on a node: send messages at a rate, and measure the outcome and latency of each."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from logos_client.events import MessageError, MessagePropagated
from logos_client.exceptions import BusyError, LogosError
from logos_client.messaging import MessagingClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to send: a number of messages, a rate per second (0: as fast as they are accepted), bytes each."""

    content_topic: str
    messages: int
    rate: float
    size: int
    in_flight: int
    """Most sends that wait to be accepted."""
    drain: float
    """Seconds to wait for outcomes after the last send."""


@dataclass(slots=True)
class LoadResult:
    """The outcome of a load. Latencies are in milliseconds from the call of `send`."""

    seconds: float = 0.0
    """From the first send until the last was accepted or refused."""
    refused: Counter[str] = field(default_factory=Counter)
    """Sends that were not accepted, by reason."""
    accept_ms: list[float] = field(default_factory=list)
    propagate_ms: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    """Sends that were accepted and given up, by reason."""

    @property
    def accepted(self) -> int:
        return len(self.accept_ms)

    @property
    def undecided(self) -> int:
        """Accepted, and without an outcome when the time was over."""
        return self.accepted - len(self.propagate_ms) - self.failed.total()

    @property
    def clean(self) -> bool:
        """All that was asked for has propagated."""
        return not (self.refused or self.failed or self.undecided)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


async def run_load(client: MessagingClient, load: Load) -> LoadResult:
    """Send it all over an unnamed connection of its own, and wait for the outcomes."""
    run = _Run(client, load)
    follower = asyncio.create_task(run.follow())
    try:
        await run.send_all()
        await run.drain()
    finally:
        follower.cancel()
    return run.result


class _Run:
    def __init__(self, client: MessagingClient, load: Load) -> None:
        self._client = client
        self._load = load
        self._begun: dict[bytes, float] = {}
        """When each send whose outcome is open was begun."""
        self._settled = asyncio.Event()
        self.result = LoadResult()

    async def send_all(self) -> None:
        start = time.monotonic()
        room = asyncio.Semaphore(self._load.in_flight)
        async with asyncio.TaskGroup() as group:
            for number in range(self._load.messages):
                if self._load.rate:
                    # By the clock, not by pauses: what is late is caught up, and the rate holds.
                    await asyncio.sleep(start + number / self._load.rate - time.monotonic())
                await room.acquire()
                group.create_task(self._send(number)).add_done_callback(lambda _: room.release())
        self.result.seconds = time.monotonic() - start

    async def _send(self, number: int) -> None:
        request_id = os.urandom(16)
        # Different ones: two equal messages of one moment are one message to the network.
        payload = number.to_bytes(8, "big") + os.urandom(self._load.size)
        begun = self._begun[request_id] = time.monotonic()
        try:
            await self._client.send(
                self._load.content_topic,
                payload[: self._load.size],
                ephemeral=True,  # stores need not keep it
                request_id=request_id,
            )
        except LogosError as error:
            del self._begun[request_id]
            self.result.refused["busy" if isinstance(error, BusyError) else error.message] += 1
        else:
            self.result.accept_ms.append((time.monotonic() - begun) * 1000)
        self._settled.set()

    async def follow(self) -> None:
        async for event in self._client:
            if isinstance(event, MessagePropagated | MessageError):
                begun = self._begun.pop(event.request_id, None)
                if begun is None:
                    continue  # an earlier outcome of the same send
                if isinstance(event, MessagePropagated):
                    self.result.propagate_ms.append((time.monotonic() - begun) * 1000)
                else:
                    self.result.failed[event.text] += 1
                self._settled.set()

    async def drain(self) -> None:
        """Wait until every accepted send has its outcome, or the time is over."""
        try:
            async with asyncio.timeout(self._load.drain):
                while self._begun:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            pass
