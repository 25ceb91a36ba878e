"""Sending by lightpush: redundancy, who is to blame, and what an answer of 505 means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import Reply
from ipc_schema.kernel.lightpush import LightpushPublishReply, LightpushPublishRequest
from ipc_schema.kernel.records import PeerRecord
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import LIGHTPUSH, ServicePeers
from mapi_proc.send.processors import Lightpush
from mapi_proc.send.task import NoPeers, Outcome, Published, Refused, SendTask, Unknown
from tests.support.aio import asyncio_test

GONE = "no way to it"
SILENT = "silent"
KERNEL_BUSY = "busy"
Behaviour = int | str
"""A status, or one of the words above."""


class Kernel:
    """The kernel's `lightpush.publish`, with services that behave as set."""

    def __init__(self, services: dict[str, Behaviour]) -> None:
        self.services = services
        self.asked: list[str] = []

    async def request(
        self, method: str, body: Mapping[str, object], blobs: Sequence[bytes], *, timeout: float
    ) -> Reply:
        request = LightpushPublishRequest.from_body(dict(body))
        assert request.peer is not None
        self.asked.append(request.peer)
        await asyncio.sleep(0)
        behaviour = self.services[request.peer]
        if behaviour == KERNEL_BUSY:
            raise IpcError(ErrorCode.BUSY, "too many requests in flight")
        if behaviour != 200:
            attempt: dict[str, object] = {"peer": request.peer, "error": "text"}
            if isinstance(behaviour, int):
                attempt["status"] = behaviour
            elif behaviour == SILENT:
                attempt["unanswered"] = True
            code = {420: ErrorCode.BAD_REQUEST, 429: ErrorCode.RATE_LIMITED}.get(
                cast("int", behaviour), ErrorCode.NO_PEERS
            )
            raise IpcError(code, f"refused: {behaviour}", detail={"attempts": [attempt]})
        reply = LightpushPublishReply(
            message_hash=bytes(32),
            timestamp=1,
            pubsub_topic="/waku/2/rs/0/0",
            peer=request.peer,
            relay_peers=3,
        )
        return Reply(bytes(16), 0, bytes(16), reply.to_body(), ())


class Setting:
    """A processor over such a kernel."""

    def __init__(self, redundancy: int = 2, **services: Behaviour) -> None:
        self.now = 0.0
        self.kernel = Kernel(services)
        self.peers = ServicePeers(lambda: self.now, lambda: 0.5)
        self.peers.update(PeerRecord(peer_id=name, protocols=LIGHTPUSH) for name in services)
        self.task = SendTask(bytes(16), bytes(16), "/app/1/a/proto", 0, b"payload", b"", False)
        self.lightpush = Lightpush(cast("KernelLink", self.kernel), self.peers, redundancy)

    async def attempt(self) -> Outcome:
        return await self.lightpush.attempt(self.task, False)

    def blamed(self) -> set[str]:
        return set(self.kernel.services) - set(self.peers.free(LIGHTPUSH, 0))


@asyncio_test()
async def test_two_services_are_asked_and_one_success_is_enough() -> None:
    setting = Setting(p=200, q=503, r=200)
    assert await setting.attempt() == Published(3)
    assert setting.kernel.asked == ["p", "q"]
    assert setting.blamed() == {"q"}
    assert await setting.attempt() == Published(3)
    assert sorted(setting.kernel.asked[2:]) == ["p", "r"], "the failing one is rotated out"


@asyncio_test()
async def test_seen_before_is_not_held_against_a_peer_when_the_other_one_has_just_published_it() -> None:
    setting = Setting(p=200, q=505)
    assert await setting.attempt() == Published(3)
    assert setting.blamed() == set()


@asyncio_test()
async def test_without_any_success_505_means_that_the_service_has_no_peers() -> None:
    setting = Setting(p=505, q=505)
    assert isinstance(await setting.attempt(), NoPeers)
    assert setting.blamed() == {"p", "q"}


@asyncio_test()
async def test_silence_is_an_unknown_outcome_after_which_505_means_that_it_got_through() -> None:
    setting = Setting(p=SILENT, q=505)
    assert isinstance(await setting.attempt(), Unknown)
    assert setting.blamed() == {"p"}
    setting.task.transmitted = True  # as `conclude` does
    setting.kernel.services["p"] = 505
    setting.now = 10.0
    assert await setting.attempt() == Published(1, duplicate=True)
    assert setting.blamed() == set()


@asyncio_test()
async def test_a_service_that_could_not_be_asked_has_not_published() -> None:
    setting = Setting(p=GONE)
    assert isinstance(await setting.attempt(), NoPeers)
    assert setting.blamed() == {"p"}


@asyncio_test()
async def test_what_the_kernel_refuses_is_nobodys_fault() -> None:
    setting = Setting(p=KERNEL_BUSY)
    assert isinstance(await setting.attempt(), NoPeers)
    assert setting.blamed() == set()


@asyncio_test()
async def test_a_refused_message_is_refused_and_the_service_not_blamed() -> None:
    setting = Setting(p=420)
    assert await setting.attempt() == Refused("refused: 420")
    assert setting.blamed() == set()


@asyncio_test()
async def test_a_retryable_error_and_then_recovery() -> None:
    setting = Setting(p=429)
    assert isinstance(await setting.attempt(), NoPeers)
    assert setting.blamed() == {"p"}
    setting.kernel.services["p"] = 200
    assert await setting.attempt() == Published(3), "the only one is asked all the same"
    assert setting.blamed() == set()
