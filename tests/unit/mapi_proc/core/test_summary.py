"""What the control socket shows of all apps and their sends."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ipc_schema.mapi.methods import SendRequest
from tests.support.aio import asyncio_test
from tests.unit.mapi_proc.core.test_core import TOPIC, receive
from tests.unit.mapi_proc.core.world import TestClocks, connected, core_of


@asyncio_test()
async def test_apps_with_their_backlog_and_position(tmp_path: Path) -> None:
    clocks = TestClocks()
    async with core_of(tmp_path, clocks) as core:
        alice, listening = await connected(core, "alice")
        await connected(core, "bob")
        await core.subscribe(alice, [TOPIC])
        for number in range(1, 4):
            receive(core, bytes([number]))
        async with asyncio.timeout(5):
            while len(listening.events) < 3:
                await asyncio.sleep(0.001)
        await core.ack(alice, alice.stream.stream_id, 2)
        core.detach(alice, listening)
        clocks.pass_by(90)
        first, second = core.summarise_apps().apps
        assert (first.name, first.durable, first.connected, first.topics) == ("alice", True, False, 1)
        assert (first.stream, first.acked, first.last) == (alice.stream.stream_id, 2, alice.stream.last_seq)
        assert first.last > 2
        assert first.backlog_bytes > 0
        assert first.away_ms == 90_000
        assert (second.name, second.connected, second.topics, second.away_ms) == ("bob", True, 0, None)


@asyncio_test()
async def test_sends_of_all_apps_oldest_first(tmp_path: Path) -> None:
    async with core_of(tmp_path, TestClocks()) as core:
        for name in ("zoe", "bob"):
            app, _ = await connected(core, name)
            await core.send(app, SendRequest(request_id=os.urandom(16), content_topic=TOPIC), name.encode())
        reply = core.summarise_sends()
        assert [(send.app, send.content_topic) for send in reply.sends] == [("zoe", TOPIC), ("bob", TOPIC)]
        assert reply.total == sum(reply.states.values()) == 2
        assert {app.name: app.sends for app in core.summarise_apps().apps} == {"zoe": 1, "bob": 1}
