"""Messages of a JetStream consumer, by pull requests of which one at most is under way.

The library's `fetch` sends two for each call, and forgets those whose end it has not seen. What a slow server
brings for them in the end comes on top of what is wanted then, without a bound; and their status messages let
later calls return nothing at once, which then send two more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

_ANSWER_SECONDS: Final = 5.0
_HEARTBEAT: Final = "100"
_NO_MORE: Final = ("404", "408")


class Pull:
    """`take` gets every message as soon as it is here."""

    def __init__(self, client: Client, stream: str, consumer: str, take: Callable[[Msg], None]) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._take = take
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._number = 0
        self._wanted = 0
        self._over: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Subscribe to what the requests bring; the library renews that with each connection."""
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message)

    async def close(self) -> None:
        """Take nothing more."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def request(self, batch: int, *, expires: float = 0.0) -> int:
        """Ask for up to `batch` messages and wait until all of them came, or no more come.

        `expires`: for how many seconds to wait for some, if none are there. Return how many came. Raises a
        failure of NATS.
        """
        self._number += 1
        self._wanted = batch
        self._over = asyncio.get_running_loop().create_future()
        asked: dict[str, Any] = {"batch": batch}
        asked |= {"expires": int(expires * 1e9)} if expires else {"no_wait": True}
        try:
            reply = f"{self._inbox}.{self._number}"
            await self._client.publish(self._subject, json.dumps(asked).encode(), reply=reply)
            async with asyncio.timeout(expires + _ANSWER_SECONDS):
                await self._over
        finally:
            self._over = None
        return batch - self._wanted

    async def _on_message(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status is None:
            self._wanted -= 1  # also for one of an earlier request: it takes the same room
            self._take(message)
            if self._wanted <= 0:
                self._end(None)
        elif status != _HEARTBEAT and message.subject == f"{self._inbox}.{self._number}":
            if status in _NO_MORE:
                self._end(None)
            else:  # such as 503: no server answers for the consumer
                reason = (message.headers or {}).get("Description", "")
                self._end(nats.errors.Error(f"pull request: {status} {reason}".strip()))

    def _end(self, error: Exception | None) -> None:
        if self._over is None or self._over.done():
            return
        if error is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(error)
