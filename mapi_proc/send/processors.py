"""Publish messages: through the kernel's relay, or through other nodes by lightpush (19/WAKU2-LIGHTPUSH).

One attempt is one walk along the mode's chain: core tries relay, then lightpush at once if relay has no
peers; edge uses lightpush only, two services for redundancy. Messages that are attempted together go to the
kernel in one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.kernel.lightpush import LIGHTPUSH_PUBLISH, LightpushPublishReply, LightpushPublishRequest
from ipc_schema.kernel.relay import (
    FEATURE_PUBLISH_MANY,
    RELAY_PUBLISH,
    RELAY_PUBLISH_MANY,
    RelayPublishManyReply,
    RelayPublishReply,
    RelayPublishRequest,
)
from mapi_proc.kernel_link.link import KernelLink
from mapi_proc.peers import LIGHTPUSH, ServicePeers
from mapi_proc.send.task import (
    Attempt,
    Concluded,
    NoPeers,
    Outcome,
    Published,
    Refused,
    SendTask,
    Unknown,
)

_PUBLISH_TIMEOUT: Final = 10.0
_LEASE_WAIT: Final = 5.0
_NEVER_SENT: Final = frozenset(
    {ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.RESYNCING, ErrorCode.RATE_LIMITED, ErrorCode.NO_PEERS}
)
_FINAL: Final = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.TOO_LARGE,
        ErrorCode.RLN_REQUIRED,
        ErrorCode.UNAUTHORISED,
        ErrorCode.UNKNOWN_METHOD,
    }
)
_SEEN_OR_NO_PEERS: Final = 505
"""A lightpush service gives this answer both when it has no peers and when it has seen the message before."""


class Processor(Protocol):
    """One way to publish."""

    async def attempt(self, task: SendTask, force: bool) -> Outcome:
        """Try once; never raises for kernel or network failures."""


class Chain:
    """The processors of a mode: `relay` (None on an edge node), then `lightpush`.

    If one has no peers, the next one is tried at once. An unknown outcome ends the round (the message may be
    out), and so does a refusal.
    """

    def __init__(self, relay: Relay | None, lightpush: Processor) -> None:
        self._relay = relay
        self._lightpush = lightpush

    async def attempt(self, task: SendTask, force: bool) -> Outcome:
        """Run one round."""
        outcome = await self._relay.attempt(task, force) if self._relay is not None else None
        return await self._go_on(task, force, outcome)

    async def _go_on(self, task: SendTask, force: bool, relayed: Outcome | None) -> Outcome:
        if relayed is not None and not isinstance(relayed, NoPeers):
            return relayed
        outcome = await self._lightpush.attempt(task, force)
        if relayed is None or not isinstance(outcome, NoPeers):
            return outcome
        return NoPeers(f"{relayed.text}; {outcome.text}")

    async def attempt_all(self, attempts: Sequence[Attempt], concluded: Concluded) -> None:
        """Run one round for each: through the relay together, the rest each on its own.

        Each is concluded as soon as its outcome is known, so that one which takes long delays no other.
        """
        relay = self._relay

        async def alone(task: SendTask, force: bool) -> None:
            concluded(task, await self.attempt(task, force))

        async def go_on(task: SendTask, force: bool, relayed: Outcome) -> None:
            concluded(task, await self._go_on(task, force, relayed))

        async with asyncio.TaskGroup() as group:
            together: list[Attempt] = []
            for task, force in attempts:
                if relay is not None and relay.takes_many(task.shard):
                    together.append((task, force))
                else:
                    group.create_task(alone(task, force))
            if relay is None or not together:
                return
            for (task, force), outcome in zip(together, await relay.attempt_many(together), strict=True):
                if isinstance(outcome, NoPeers):
                    group.create_task(go_on(task, force, outcome))
                else:
                    concluded(task, outcome)


def _outcome(error: IpcError) -> Outcome:
    if error.code in _NEVER_SENT:
        return NoPeers(error.message)
    if error.code in _FINAL:
        return Refused(error.message)
    return Unknown(error.message)


def _row_outcome(code: str, text: str) -> Outcome:
    # Of one message among several: the budget ended before its turn, so that nothing of it was sent.
    if code == ErrorCode.DEADLINE_EXCEEDED:
        return NoPeers(text)
    return _outcome(IpcError.from_body({"code": code, "message": text}))


class Relay:
    """The kernel's own relay.

    What is forced is published past the seen cache, since the same bytes may have been published before.
    """

    def __init__(self, link: KernelLink) -> None:
        self._link = link

    def takes_many(self, shard: int) -> bool:
        """Return whether messages of this shard can be published together now."""
        hello = self._link.hello
        return hello is not None and FEATURE_PUBLISH_MANY in hello.features and self._link.leased(shard)

    async def attempt_many(self, attempts: Sequence[Attempt]) -> Sequence[Outcome]:
        """Publish messages of shards that it takes many of; never raises for kernel or network failures."""
        messages = [
            (task.content_topic, task.shard, task.timestamp, task.meta, 0, task.ephemeral, b"", force)
            for task, force in attempts
        ]
        payloads = [task.payload for task, _ in attempts]
        try:
            reply = await self._link.request(
                RELAY_PUBLISH_MANY,
                {"messages": messages},  # as `RelayPublishManyRequest.to_body`
                payloads,
                timeout=_PUBLISH_TIMEOUT,
                weight=len(payloads),
            )
        except IpcError as error:
            if error.code not in _FINAL:
                return [_outcome(error)] * len(attempts)
            # One of them is impossible, or the kernel is another one now, without the method.
            return await asyncio.gather(*(self._publish(task, force) for task, force in attempts))
        try:
            results = RelayPublishManyReply.from_body(reply.body).results
        except IpcError as error:
            return [Unknown(error.message)] * len(attempts)
        if len(results) != len(attempts):
            return [Unknown(f"{len(results)} results for {len(attempts)} messages")] * len(attempts)
        return [
            _row_outcome(code, text) if code else Published(peers, duplicate)
            for code, text, _, _, peers, duplicate in results
        ]

    async def attempt(self, task: SendTask, force: bool) -> Outcome:
        """See `Processor`."""
        # Until the kernel records the shard for us, our own apps would miss the message.
        if not await self._link.wait_leased((task.shard,), _LEASE_WAIT):
            return NoPeers(f"the kernel does not follow shard {task.shard} yet")
        return await self._publish(task, force)

    async def _publish(self, task: SendTask, force: bool) -> Outcome:
        request = RelayPublishRequest(
            content_topic=task.content_topic,
            shard=task.shard,
            timestamp=task.timestamp,
            meta=task.meta,
            ephemeral=task.ephemeral,
            force=force,
        )
        try:
            reply = await self._link.request(
                RELAY_PUBLISH, request.to_body(), [task.payload], timeout=_PUBLISH_TIMEOUT
            )
        except IpcError as error:
            return _outcome(error)
        try:
            answer = RelayPublishReply.from_body(reply.body)
        except IpcError as error:
            return Unknown(error.message)
        return Published(answer.peers, answer.duplicate)


class Lightpush:
    """Other nodes' lightpush services: `redundancy` distinct peers at once."""

    def __init__(
        self,
        link: KernelLink,
        peers: ServicePeers,
        redundancy: int,
        hears: Callable[[int, str], Awaitable[None]] | None = None,
    ) -> None:
        """`hears(shard, content topic)` is awaited first: until a message sent there would be pushed back to
        us."""
        self._link = link
        self._peers = peers
        self._redundancy = redundancy
        self._hears = hears

    async def attempt(self, task: SendTask, force: bool) -> Outcome:  # noqa: ARG002 (services have no force)
        """Push to the best services in parallel. One success is enough."""
        if self._hears is not None:
            await self._hears(task.shard, task.content_topic)
        chosen = self._peers.choose(LIGHTPUSH, task.shard, self._redundancy)
        if not chosen:
            return NoPeers(f"no lightpush service for shard {task.shard} is connected")
        answers = await asyncio.gather(*(self._ask(task, peer) for peer in chosen))
        out = task.transmitted or any(isinstance(answer.outcome, Published | Unknown) for answer in answers)
        for peer, answer in zip(chosen, answers, strict=True):
            if isinstance(answer.outcome, Published):
                self._peers.succeeded(LIGHTPUSH, peer)
            elif answer.failed and not (answer.seen and out):
                self._peers.failed(LIGHTPUSH, peer)
        best = _best([answer.outcome for answer in answers])
        if isinstance(best, NoPeers) and task.transmitted and any(answer.seen for answer in answers):
            # An earlier attempt had no reply and the network knows the message: that attempt got through.
            return Published(1, duplicate=True)
        return best

    async def _ask(self, task: SendTask, peer: str) -> _Answer:
        request = LightpushPublishRequest(
            content_topic=task.content_topic,
            shard=task.shard,
            timestamp=task.timestamp,
            meta=task.meta,
            ephemeral=task.ephemeral,
            peer=peer,
        )
        try:
            reply = await self._link.request(
                LIGHTPUSH_PUBLISH, request.to_body(), [task.payload], timeout=_PUBLISH_TIMEOUT
            )
            answer = LightpushPublishReply.from_body(reply.body)
        except IpcError as error:
            return _failure(error)
        return _Answer(Published(max(1, answer.relay_peers or 0)))


class _Answer(NamedTuple):
    """One service's answer.

    `failed`: the peer is at fault (otherwise the kernel, or the request); `seen`: its text, which may mean
    that it has seen the message before.
    """

    outcome: Outcome
    failed: bool = False
    seen: bool = False


def _failure(error: IpcError) -> _Answer:
    attempts = (error.detail or {}).get("attempts")
    tried = [one for one in attempts if isinstance(one, dict)] if isinstance(attempts, list) else []
    if not tried:
        return _Answer(_outcome(error))
    seen = {one.get("status") for one in tried} == {_SEEN_OR_NO_PEERS}
    outcome = _outcome(error)
    if isinstance(outcome, NoPeers) and any(one.get("unanswered") for one in tried):
        outcome = Unknown(error.message)
    return _Answer(outcome, failed=not isinstance(outcome, Refused), seen=seen)


def _best(outcomes: Sequence[Outcome]) -> Outcome:
    """Combine the answers: one success wins, then an unknown outcome, then a refusal, then nothing."""
    for kind in (Published, Unknown, Refused, NoPeers):
        for outcome in outcomes:
            if isinstance(outcome, kind):
                return outcome
    return NoPeers()
