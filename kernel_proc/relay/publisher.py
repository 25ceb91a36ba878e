"""Publish our own messages: check them as every peer would, and queue them for the peers of the topic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from ipc_schema.message import MessageDecodeError, WakuMessage, decode_message
from kernel_proc.relay.link import PeerLink
from kernel_proc.relay.messages import (
    PublishResult,
    RelayMessage,
    RelayMessageInvalid,
    RelayMessageTooLarge,
    message_id_of,
)
from kernel_proc.relay.params import RelayParams
from kernel_proc.relay.router import Router
from kernel_proc.relay.rpc_writer import fits_rpc
from kernel_proc.relay.validation import Validator, Verdict, judge

_new_tuple: Final = tuple.__new__


class RelayPublisher:
    """The publishing side of the relay. `links` and `counters` are shared with the service."""

    def __init__(
        self,
        router: Router,
        validators: Sequence[Validator],
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
        self._clock = trio.lowlevel.current_clock().current_time

    def publish(
        self, topic: str, data: bytes, *, message: WakuMessage | None = None, force: bool = False
    ) -> PublishResult | Awaitable[PublishResult]:
        """Publish an encoded WakuMessage to the peers of a topic. Return an awaitable if that has to wait for
        room in a queue.

        Callers that have what `data` decodes to give it as `message`: it is not decoded again.

        Bytes seen within the seen TTL are not sent again (`duplicate`), unless `force`. Waits for room in
        full queues, up to `QueueParams.publish_wait`; peers without room by then are not counted.

        Raise RelayMessageTooLarge or RelayMessageInvalid.
        """
        if not fits_rpc(topic.encode(), len(data), self._params.max_rpc_size):
            raise RelayMessageTooLarge(self._params.max_rpc_size)
        message_id = message_id_of(data)
        self._check(topic, data, message, message_id)
        now = self._clock()
        plan = self._router.publish(topic, message_id, data, now, force=force)
        peers = 0
        full: list[PeerLink] = []
        if plan.targets:
            frame = plan.message.frame
            for target in plan.targets:
                link = self._links.get(target)
                if link is None:
                    continue
                if link.offer(frame, message_id):
                    peers += 1
                else:
                    full.append(link)
        result = _new_tuple(PublishResult, (message_id, peers, plan.duplicate))
        if full:
            return self._publish_to_full(topic, len(data), result, full, plan.message.frame, now)
        self._count(topic, len(data), peers)
        return result

    async def _publish_to_full(
        self,
        topic: str,
        size: int,
        result: PublishResult,
        full: Sequence[PeerLink],
        frame: bytes,
        now: float,
    ) -> PublishResult:
        peers = result.peers + await self._wait_for_room(full, frame, result.message_id, now)
        self._count(topic, size, peers)
        return result._replace(peers=peers)

    def _count(self, topic: str, size: int, peers: int) -> None:
        self._counters["published"] += 1
        if peers:
            self._router.traffic.of(topic).sent(size, peers)

    def _check(self, topic: str, data: bytes, decoded: WakuMessage | None, message_id: bytes) -> None:
        """Run our own validators: every peer would penalise us for a message that they reject."""
        if decoded is None:
            try:
                decoded = decode_message(data)
            except MessageDecodeError as error:
                raise RelayMessageInvalid(str(error)) from error
        message = _new_tuple(RelayMessage, (topic, data, decoded, message_id, "", self._wall_clock_ns()))
        if judge(self._validators, message) is not Verdict.ACCEPT:
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
