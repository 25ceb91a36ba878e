"""Reliable channels between real nodes: what apps see through deaths, losses and absences."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from logos_client import PendingChannelSend
from logos_client.events import (
    ChannelMessageDelivered,
    ChannelMessageLost,
    ChannelMessageReceived,
    ChannelMessageSent,
    Event,
)
from logos_client.exceptions import BadRequestError, ConflictError
from logos_client.messaging import MessagingClient
from tests.support.aio import asyncio_test
from tests.support.nodes import TOPIC, Node, node_pair

pytestmark = pytest.mark.integration

E = TypeVar("E", bound=Event)

FAST = (
    "--channel-ack-timeout=1s",
    "--channel-sync-interval=300ms",
    "--channel-repair-delay=300ms",
    "--channel-lost-after=120s",
)
"""What takes minutes in a network of people takes seconds here."""


async def events_until(app: MessagingClient, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """The app's next events, until they are enough."""
    found: list[Event] = []
    while not enough(found):
        found.append(await app.next_event(60))
    return found


def of(kind: type[E], events: Sequence[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


async def payloads(app: MessagingClient, count: int) -> list[bytes]:
    """The payloads that the app's channel brings, until there are so many."""
    events = await events_until(app, lambda found: len(of(ChannelMessageReceived, found)) >= count)
    assert not of(ChannelMessageLost, events)
    return [event.payload for event in of(ChannelMessageReceived, events)]


async def delivered(app: MessagingClient, requests: set[bytes]) -> list[Event]:
    """Wait until all these sends are delivered."""
    return await events_until(
        app, lambda found: requests <= {one.request_id for one in of(ChannelMessageDelivered, found)}
    )


async def open_channel(node: Node, name: str | None, **options: Any) -> MessagingClient:
    await node.mapi.ready()
    app = await MessagingClient.connect(node.run, name=name, credit=64 << 20)
    await app.create_channel("room", TOPIC, **options)
    return app


@asyncio_test(120)
async def test_two_apps_talk_in_order_and_see_that_the_other_has_it(tmp_path: Path) -> None:
    with node_pair(tmp_path, mapi_options=FAST) as nodes:
        async with await open_channel(nodes[0], "alice") as alice, await open_channel(nodes[1], None) as bob:
            sent = [await alice.send_to_channel("room", b"%d" % number) for number in range(20)]
            assert await payloads(bob, 20) == [b"%d" % number for number in range(20)]
            answer = await bob.send_to_channel("room", b"answer")
            events = await events_until(
                alice,
                lambda found: (
                    bool(of(ChannelMessageReceived, found))
                    and len(of(ChannelMessageDelivered, found)) == len(sent)
                ),
            )
            (got,) = of(ChannelMessageReceived, events)
            assert (got.channel_id, got.payload) == ("room", b"answer")
            assert {one.request_id for one in of(ChannelMessageDelivered, events)} == set(sent)
            assert {one.request_id for one in of(ChannelMessageSent, events)} == set(sent)
            await delivered(bob, {answer})
            found = await bob.find_channel_send("room", answer)
            assert found is not None
            assert (found.sent, found.end) == (True, "delivered")
            # a request id is the idempotency key, also after the end of its send
            assert await alice.send_to_channel("room", b"0", request_id=sent[0]) == sent[0]
            with pytest.raises(ConflictError):
                await alice.send_to_channel("room", b"other", request_id=sent[0])
            # What became of it, after the death of the process that knew, and in a closed channel.
            nodes[0].mapi.kill()
            nodes[0].mapi.start()
            await alice.close_channel("room")
            (by,) = {one.by for one in of(ChannelMessageDelivered, events)}
            ended = PendingChannelSend(request_id=sent[0], sent=True, end="delivered", detail=by)
            assert await alice.find_channel_send("room", sent[0]) == ended
            assert await alice.find_channel_send("room", bytes(16)) is None


@asyncio_test(120)
async def test_what_is_refused_and_with_which_words(tmp_path: Path) -> None:
    with node_pair(tmp_path, mapi_options=FAST) as nodes:
        async with await open_channel(nodes[0], "alice") as alice:
            with pytest.raises(ConflictError, match="channel already exists: room"):
                await alice.create_channel("room", TOPIC)
            with pytest.raises(BadRequestError, match="unknown channel: nowhere"):
                await alice.send_to_channel("nowhere", b"x")
            with pytest.raises(BadRequestError, match="empty payload"):
                await alice.send_to_channel("room", b"")
            with pytest.raises(BadRequestError, match="segmentation failed"):
                await alice.send_to_channel("room", bytes(27 << 20))
            with pytest.raises(BadRequestError, match="failed to subscribe to content topic"):
                await alice.create_channel("other", "no topic")
            with pytest.raises(BadRequestError, match="profile 'nim'"):
                await alice.create_channel("other", TOPIC, profile="nim")
            assert await alice.channel_exists("room")
            (info,) = await alice.channels()
            assert (info.channel_id, info.open, info.locked) == ("room", True, False)
            await alice.close_channel("room")
            assert not await alice.channel_exists("room")
            with pytest.raises(BadRequestError, match="channel is closed"):
                await alice.send_to_channel("room", b"x")
            assert await alice.create_channel("room", TOPIC) == info.sender_id
            await alice.forget_channel("room")
            assert await alice.channels() == ()


@pytest.mark.parametrize("size", [1 << 20, 20 << 20])
@asyncio_test(180)
async def test_a_large_payload_is_one_event(tmp_path: Path, size: int) -> None:
    with node_pair(tmp_path, mapi_options=FAST) as nodes:
        async with await open_channel(nodes[0], "alice") as alice, await open_channel(nodes[1], "bob") as bob:
            payload = os.urandom(size)
            request = await alice.send_to_channel("room", payload, timeout=60)
            assert await payloads(bob, 1) == [payload]
            await delivered(alice, {request})
