"""Publish our own messages: check them as every peer would, and queue them for the peers of the topic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import trio

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message
from kernel_proc.relay.link import PeerLink
from kernel_proc.relay.messages import PublishResult, RelayMessage, RelayMessageInvalid, RelayMessageTooLarge
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.relay.validation import Validators, Verdict

__all__ = ["RelayPublisher"]


class RelayPublisher:
    """The publishing side of the relay. `links` and `counters` are shared with the service."""

    def __init__(
        self,
        router: Router,
        validators: Validators,
        links: Mapping[str, PeerLink],
        params: RelayParams,
        counters: dict[str, int],
        wall_clock_ns: Callable[[], int],
    ) -> None:
        self._router = router
        self._validators = validators
        self._links = links
        self._params = params
        self._counters = counters
        self._wall_clock_ns = wall_clock_ns
        self._published = time.perf_counter()

    async def publish(
        self, topic: str, data: bytes, *, message: WakuMessage | None = None, force: bool = False
    ) -> PublishResult:
        """Publish an encoded WakuMessage to the peers of a topic.

        Callers that have what `data` decodes to give it as `message`: it is not decoded again.

        Bytes seen within the seen TTL are not sent again (`duplicate`), unless `force`. Waits for room in
        full queues, up to `QueueParams.publish_wait`; peers without room by then are not counted.

        Raise RelayMessageTooLarge or RelayMessageInvalid.
        """
        if not fits_rpc(topic.encode(), len(data), self._params.max_rpc_size):
            raise RelayMessageTooLarge(self._params.max_rpc_size)
        message_id = sha256(data).digest()
        await self._check(topic, data, message, message_id)
        now = trio.current_time()
        plan = self._router.publish(topic, message_id, data, now, force=force)
        peers = 0
        if plan.targets:
            frame = plan.message.frame
            full: list[PeerLink] = []
            for target in plan.targets:
                link = self._links.get(target)
                if link is None:
                    continue
                if link.offer(frame, message_id):
                    peers += 1
                else:
                    full.append(link)
            if full:
                peers += await self._wait_for_room(full, frame, message_id, now)
        self._counters["published"] += 1
        if peers:
            self._router.traffic.of(topic).sent(len(data), peers)
        if time.perf_counter() - self._published > self._params.max_hold:
            # Not on every call: a burst of publishes should fill whole writes instead of one message per
            # write.
            await trio.lowlevel.checkpoint()
            self._published = time.perf_counter()
        return PublishResult(message_id, peers, plan.duplicate)

    async def _check(self, topic: str, data: bytes, decoded: WakuMessage | None, message_id: bytes) -> None:
        """Run our own validators: every peer would penalise us for a message that they reject."""
        if decoded is None:
            try:
                decoded = decode_message(data)
            except MessageDecodeError as error:
                raise RelayMessageInvalid(str(error)) from error
        verdict = self._validators.check(
            RelayMessage(topic, data, decoded, message_id, "", self._wall_clock_ns())
        )
        if not isinstance(verdict, Verdict):
            verdict = await verdict
        if verdict is not Verdict.ACCEPT:
            raise RelayMessageInvalid(f"rejected by a validator of {topic}")

    async def _wait_for_room(
        self, links: Sequence[PeerLink], frame: bytes, message_id: bytes, now: float
    ) -> int:
        deadline = now + self._params.queues.publish_wait
        taken: list[bool] = []

        async def wait(link: PeerLink) -> None:
            taken.append(await link.wait_and_offer(frame, message_id, deadline))

        if len(links) == 1:
            await wait(links[0])
        else:
            async with trio.open_nursery() as nursery:
                for link in links:
                    nursery.start_soon(wait, link)
        self._counters["publish_timeouts"] += taken.count(False)
        return taken.count(True)
