"""The clients under test of the conformance kit, on a live node whose processes are killed under them."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from conformance.adapter import Adapter
from conformance.ours import OURS, Unavailable
from ipc_schema.paths import mapi_endpoints
from tests.support.client_languages import languages
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = pytest.mark.integration

TOPIC = "/conformance/1/live/plain"
SECONDS = 40.0


def ask(adapter: Adapter, command: str, **arguments: Any) -> Any:
    """The result of a command."""
    number = adapter.begin(command, {"timeout_ms": int(SECONDS * 1000), **arguments})
    end = time.monotonic() + SECONDS + 5
    while number not in adapter.answers:
        assert time.monotonic() < end, f"{command}: no answer"
        adapter.wait(0.2)
    answer = adapter.answers.pop(number)
    assert answer["ok"], answer
    return answer.get("result")


def take(adapter: Adapter, count: int) -> list[dict[str, Any]]:
    """The next `count` messages; other events may come between."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        event = ask(adapter, "next")
        assert event["event"] != "events_dropped", event
        if event["event"] == "message_received":
            found.append(event)
    return found


@pytest.mark.parametrize("client", languages(OURS))
def test_each_message_comes_once_through_kills_of_both_processes(client: str) -> None:
    try:
        command = OURS[client]()
    except Unavailable as why:
        pytest.skip(str(why))
    with short_directory() as path, KernelProcess(path) as kernel, MapiProcess(path) as mapi:
        asyncio.run(_ready(mapi))
        adapter = Adapter(command, None)
        try:
            ask(adapter, "connect", endpoint=mapi_endpoints(mapi.run_dir).apps, name="live")
            assert ask(adapter, "subscribe", topics=[TOPIC]) == {}
            got = []
            for number, killed in enumerate(("", "mapi", "kernel", "mapi")):
                if killed == "mapi":
                    mapi.kill()
                    mapi.start()
                elif killed:
                    kernel.stop(signal.SIGKILL)
                    kernel.start()
                ask(adapter, "send", topic=TOPIC, payload=bytes([number]).hex())
                got += take(adapter, 1)
            ask(adapter, "close")
            assert [event["payload"] for event in got] == [bytes([number]).hex() for number in range(4)]
            assert len({event["stream_id"] for event in got}) == 1
            seqs = [int(event["seq"]) for event in got]
            assert seqs == sorted(set(seqs))

            ask(adapter, "connect", endpoint=mapi_endpoints(mapi.run_dir).apps, name="live")
            ask(adapter, "send", topic=TOPIC, payload="ff", request_id="ab" * 16)
            (last,) = take(adapter, 1)  # what was handled before does not come again
            assert last["payload"] == "ff"
            assert int(last["seq"]) > seqs[-1]

            # It goes on, as it has no peer; and what was never accepted is not found.
            found = [ask(adapter, "find_send", request_id=one * 16) for one in ("ab", "cd")]
            assert found[0] in ("attempted", "retry")
            assert found[1] is None

            ask(adapter, "channel_create", channel="room", topic=TOPIC)
            sent = ask(adapter, "channel_send", channel="room", payload="ff")
            found = [ask(adapter, "find_send", channel="room", request_id=one) for one in (sent, "cd" * 16)]
            assert found == ["", None]
        finally:
            adapter.close()


async def _ready(mapi: MapiProcess) -> None:
    await mapi.ready()
