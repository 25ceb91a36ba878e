"""An app that writes down what it does before it goes on: `python -m tests.chaos.app NAME RUN_DIR …`.

It sends at a steady rate within the phase that the directory tells, and acknowledges events once they are in
its ledger on disk. Started again after a kill it repeats, under the same request id, every send that it does
not know to be accepted: as an app does that was promised an idempotency key.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from pathlib import Path
from typing import Final

from logos_client.events import (
    Event,
    EventsDropped,
    LinkLost,
    LinkRestored,
    MessageCancelled,
    MessageError,
    MessagePropagated,
    MessageReceived,
    MessageSent,
    MessagesMissed,
    MessageUnconfirmed,
    TakenOver,
)
from logos_client.exceptions import LogosError
from logos_client.messaging import MessagingClient
from tests.chaos.ledger import Ledger, phase_of, read_ledger

SYNC_EVERY: Final = 0.1
SYNC_EVENTS: Final = 200
SENDS_AT_ONCE: Final = 64
PAUSE: Final = 0.3
_SIZES: Final = (40, 40, 40, 200, 200, 1000, 4000)


class ChaosApp:
    """One run of an app. `topics`: all that it subscribes and sends on."""

    def __init__(self, name: str, run_dir: Path, directory: Path, topics: list[str], rate: float) -> None:
        self._name = name
        self._run_dir = run_dir
        self._directory = directory
        self._topics = topics
        self._rate = rate
        path = directory / f"app-{name}.jsonl"
        self._unanswered: dict[str, tuple[str, int]] = {}
        for line in read_ledger(path).lines:
            if line["what"] == "intent":
                self._unanswered[line["id"]] = (line["topic"], line["size"])
            elif line["what"] == "accepted":
                self._unanswered.pop(line["id"], None)
        self._ledger = Ledger(path)
        self._room = asyncio.Semaphore(SENDS_AT_ONCE)

    async def run(self) -> None:
        """Until killed."""
        self._ledger.write("start", pid=os.getpid())
        async with (
            MessagingClient.connect(self._run_dir, name=self._name, ack="manual", timeout=None) as client,
            asyncio.TaskGroup() as group,
        ):
            await self._subscribe(client)
            group.create_task(self._read(client))
            group.create_task(self._send_all(client, group))

    async def _subscribe(self, client: MessagingClient) -> None:
        while True:
            try:
                errors = await client.subscribe(self._topics)
            except LogosError as error:
                self._trouble("subscribe", error)
                await asyncio.sleep(PAUSE)
                continue
            assert not errors, errors
            self._ledger.write("subscribed", topics=self._topics)
            self._ledger.sync()
            return

    # -- events ---------------------------------------------------------------------------------------------

    async def _read(self, client: MessagingClient) -> None:
        last: Event | None = None
        waiting = 0
        sync_at = time.monotonic() + SYNC_EVERY
        while True:
            try:
                event = await client.next_event(max(0.001, sync_at - time.monotonic()) if waiting else None)
            except LogosError as error:
                if error.code != "deadline_exceeded":
                    raise
            else:
                assert not isinstance(event, TakenOver), "two processes of one app"
                if not waiting:
                    sync_at = time.monotonic() + SYNC_EVERY
                if self._note(event):
                    last = event
                    waiting += 1
            if waiting and (waiting >= SYNC_EVENTS or time.monotonic() >= sync_at):
                self._ledger.sync()
                assert last is not None
                assert not isinstance(last, LinkLost | LinkRestored)
                try:
                    await client.ack(last)
                    self._ledger.write("ack", stream=last.stream_id.hex(), seq=last.seq)
                except LogosError as error:
                    self._trouble("ack", error)  # what is not acknowledged comes again
                waiting = 0

    def _note(self, event: Event) -> bool:
        kind = type(event).__name__
        match event:
            case LinkLost(reason=reason):
                self._ledger.write("link_lost", reason=reason)
                return False
            case LinkRestored():
                self._ledger.write("link_restored", resumed=event.resumed, lost_seq=event.last_seq)
                return False
            case MessageReceived():
                more: dict[str, object] = {"hash": event.message_hash.hex(), "id": event.payload[:16].hex()}
            case MessagePropagated() | MessageSent():
                more = {"id": event.request_id.hex(), "hash": event.message_hash.hex()}
            case MessageUnconfirmed():
                more = {"id": event.request_id.hex(), "reason": event.reason}
            case MessageError():
                more = {"id": event.request_id.hex(), "reason": event.text}
            case MessageCancelled():
                more = {"id": event.request_id.hex()}
            case MessagesMissed():
                more = {"topics": list(event.content_topics), "from": event.from_ns, "to": event.to_ns}
            case EventsDropped():
                more = {"first": event.first, "last": event.last}
            case _:
                more = {}
        self._ledger.write("event", kind=kind, stream=event.stream_id.hex(), seq=event.seq, **more)
        return True

    # -- sends ----------------------------------------------------------------------------------------------

    async def _send_all(self, client: MessagingClient, group: asyncio.TaskGroup) -> None:
        for request_id, (topic, size) in list(self._unanswered.items()):
            await self._room.acquire()
            group.create_task(self._send(client, request_id, topic, size))
        while (phase := phase_of(self._directory)) is None:
            await asyncio.sleep(0.1)
        begin, end = phase
        await asyncio.sleep(max(0.0, begin - time.time()))
        due = time.monotonic() + random.random() / self._rate
        while time.time() < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            await self._room.acquire()
            request_id, topic = os.urandom(16).hex(), random.choice(self._topics)
            size = random.choice(_SIZES)
            self._ledger.write("intent", id=request_id, topic=topic, size=size)
            group.create_task(self._send(client, request_id, topic, size))
        self._ledger.write("quiet")

    async def _send(self, client: MessagingClient, request_id: str, topic: str, size: int) -> None:
        """Until it is accepted: nothing else is an answer to go on from."""
        identity = bytes.fromhex(request_id)
        payload = identity.ljust(size, b".")
        try:
            while True:
                try:
                    await client.send(topic, payload, request_id=identity)
                except LogosError as error:
                    if not error.retriable:
                        self._ledger.write("refused", id=request_id, reason=str(error))
                        return
                    self._trouble("send", error)
                    await asyncio.sleep(PAUSE)
                    continue
                self._ledger.write("accepted", id=request_id)
                return
        finally:
            self._room.release()

    def _trouble(self, where: str, error: LogosError) -> None:
        self._ledger.write("trouble", where=where, error=f"{type(error).__name__}: {error}"[:200])


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--topic", action="append", required=True)
    parser.add_argument("--rate", type=float, required=True)
    given = parser.parse_args()
    asyncio.run(ChaosApp(given.name, given.run_dir, given.directory, given.topic, given.rate).run())


if __name__ == "__main__":
    _main()
