"""What the bridge asks of JetStream, of a real server: readings end, and requests are not mixed up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from ipc_schema.config.bridge import load_bridge_config
from logos_bridge import pull as pull_module
from logos_bridge.jetstream import JetStreamLink
from logos_bridge.pull import Pull
from tests.support.aio import asyncio_test
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration


@asynccontextmanager
async def linked(server: NatsServer) -> AsyncIterator[JetStreamLink]:
    """A bridge's connection to a server that has started."""
    server.wait_ready()
    link = JetStreamLink(load_bridge_config(flags={"nats-url": server.url}, environ={}))
    await link.open()
    try:
        yield link
    finally:
        await link.close()


@asyncio_test(60)
async def test_a_reading_ends_though_the_stream_is_written_to_all_the_while() -> None:
    """Sends of a dead bridge were otherwise found only when the load ended."""
    with NatsServer() as server:
        async with linked(server) as link:
            bucket = link.layout.open_bucket
            for number in range(50):
                await link.put(bucket, f"old-{number}", b"x", {}, 0)
            found = []
            async for stored in link.scan(f"KV_{bucket}", f"$KV.{bucket}.>", data=False):
                found.append(stored.subject.rpartition(".")[2])
                await link.put(bucket, f"new-{len(found)}", b"x", {}, 0)
            assert found == [f"old-{number}" for number in range(50)]


@asyncio_test(60)
async def test_a_reading_ends_at_once_when_the_rest_was_deleted() -> None:
    with NatsServer() as server:
        async with linked(server) as link:
            bucket = link.layout.open_bucket
            revisions = [await link.put(bucket, f"{number}", b"x", {}, 0) for number in range(700)]
            found = []
            async for stored in link.scan(f"KV_{bucket}", f"$KV.{bucket}.>", data=False):
                found.append(stored.seq)
                if len(found) == 1:  # the first page is here; the second one is not asked for yet
                    for revision in revisions[600:]:
                        await link.delete(f"KV_{bucket}", revision)
            assert found == revisions[:600]
            assert link.counters.errors == 0, "no request waited in vain"


async def consumer(js: JetStreamContext) -> None:
    """A stream and a consumer of it."""
    await js.add_stream(api.StreamConfig(name="s", subjects=["s.>"]))
    await js.add_consumer("s", api.ConsumerConfig(durable_name="c", ack_policy=api.AckPolicy.EXPLICIT))


@asyncio_test(60)
async def test_the_end_of_an_earlier_request_does_not_end_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow server reports the end long after the request was given up."""
    with NatsServer() as server:
        async with linked(server) as link:
            await consumer(link.js)
            client = link.js._nc
            taken: list[Msg] = []
            pull = Pull(client, "s", "c", taken.append)
            await pull.open()
            statuses = await client.subscribe(f"{pull._inbox}.*")
            with monkeypatch.context() as patch:
                patch.setattr(pull_module, "_ANSWER_SECONDS", -0.9)
                with pytest.raises(TimeoutError):
                    await pull.request(10, expires=1)
            later = asyncio.create_task(pull.request(2, expires=30))
            ended = await statuses.next_msg(timeout=20)
            assert (ended.headers or {})["Status"] == "408"
            await link.js.publish("s.1", b"one")
            while not taken:
                await asyncio.sleep(0.01)
            assert not later.done()
            await link.js.publish("s.2", b"two")
            assert await later == 2
            assert [message.data for message in taken] == [b"one", b"two"]


@asyncio_test(60)
async def test_a_request_fails_when_its_consumer_is_deleted() -> None:
    with NatsServer() as server:
        async with linked(server) as link:
            await consumer(link.js)
            pull = Pull(link.js._nc, "s", "c", lambda _: None)
            await pull.open()
            waiting = asyncio.create_task(pull.request(10, expires=30))
            while not (await link.js.consumer_info("s", "c")).num_waiting:
                await asyncio.sleep(0.01)
            await link.js.delete_consumer("s", "c")
            with pytest.raises(nats.errors.Error, match="409"):
                await waiting


@asyncio_test(60)
async def test_each_message_has_the_answer_of_the_server() -> None:
    """Stored, stored before, refused by the stream, and taken by none; many at once."""
    with NatsServer() as server:
        async with linked(server) as link:
            await link.js.add_stream(
                api.StreamConfig(name="s", subjects=["s.*"], max_msgs=100, discard=api.DiscardPolicy.NEW)
            )
            answers: dict[str, list[tuple[str, bool]]] = {}
            everything = asyncio.Event()

            async def publish(name: str, subject: str, message_id: str) -> None:
                def answered(refusal: str, known: bool) -> None:
                    answers.setdefault(name, []).append((refusal, known))
                    if len(answers) == 103:
                        everything.set()

                ticket = link.acks.expect(answered)
                await link.acks.publish(ticket, subject, b"x", {"Nats-Msg-Id": message_id})

            given_up = link.acks.expect(lambda *_: pytest.fail("answered, though given up"))
            link.acks.forget(given_up)
            await link.acks.publish(given_up, "s.0", b"x", {"Nats-Msg-Id": "0"})
            for number in range(1, 100):
                await publish(f"{number}", f"s.{number}", f"{number}")
            await publish("again", "s.7", "7")
            await publish("given up and again", "s.0", "0")
            await publish("too many", "s.100", "100")
            await publish("elsewhere", "elsewhere", "1")
            await everything.wait()
            assert [answers.pop(f"{number}") for number in range(1, 100)] == [[("", False)]] * 99
            assert answers == {
                "again": [("", True)],
                "given up and again": [("", True)],
                "too many": [("maximum messages exceeded (10077)", False)],
                "elsewhere": [("no stream takes the subject now", False)],
            }


@asyncio_test(60)
async def test_a_lost_connection_is_reported_once() -> None:
    with NatsServer() as server:
        async with linked(server) as link:
            assert not await link.lost(0)
            waiting = asyncio.create_task(link.lost(30))
            server.kill()
            assert await waiting
            server.start()
            await link.up()
            assert not await link.lost(0)


@asyncio_test(60)
async def test_a_connection_that_the_server_refuses_from_now_on_is_noticed() -> None:
    """The library gives it up for good; the bridge then ends, and its supervisor starts it again."""
    with NatsServer() as server:
        async with linked(server) as link:
            assert not link.closed
            with (server.directory / "conf").open("a") as conf:
                conf.write('\nauthorization { user: "other", password: "secret" }\n')
            server.signal(signal.SIGHUP)
            while not link.closed:
                await asyncio.sleep(0.01)
