"""A client of a kernel, behind an adapter of the conformance kit, on a live kernel that is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from conformance.adapter import Adapter
from tests.integration.test_conformance_live import ask
from tests.support.kernel_process import KernelProcess, short_directory

TOPIC = "/test/1/kill/proto"


def follow_a_kernel_through_a_kill(command: Sequence[str], name: str) -> None:
    """Health, peers, publish, a slow reader's replay, the archive; then the kernel is killed and found."""
    with short_directory() as path, KernelProcess(path / "k", "--store=true") as kernel:
        adapter = Adapter(command, None)
        try:
            ask(adapter, "kernel_connect", directory=str(kernel.directory / "run"), name=name)
            assert ask(adapter, "health")["state"]
            assert not ask(adapter, "peers")
            ask(adapter, "feed", shards=[0], max_bytes=4_000)

            payloads = [os.urandom(1_000).hex() for _ in range(20)]
            for payload in payloads:  # more than the feed holds: the kernel's ring keeps what is behind
                assert publish(adapter, payload) == "no_peers"
            got = [take(adapter, "message") for _ in payloads]
            assert [event["payload"] for event in got] == payloads
            assert [int(event["seq"]) for event in got] == list(range(1, 21))
            end = time.monotonic() + 20
            while (stored := ask(adapter, "query", topics=[TOPIC])) != payloads:
                assert stored == payloads[: len(stored)]  # the archive writes behind
                assert time.monotonic() < end

            kernel.stop(signal.SIGKILL)
            kernel.start()
            reported: dict[str, dict[str, Any]] = {}  # in any order: requests and events are two sockets
            while not reported.keys() >= {"kernel_lost", "kernel_found", "stream_loss"}:
                event = ask(adapter, "next")
                reported[event["event"]] = event
            assert reported["kernel_found"]["restarted"] is True
            assert reported["stream_loss"]["stream"] == got[0]["stream"]
            publish(adapter, "ff")  # on the stream, since the lease was taken again
            assert take(adapter, "message")["payload"] == "ff"
            ask(adapter, "close")
        finally:
            adapter.close()


def take(adapter: Adapter, kind: str) -> dict[str, Any]:
    """The next event of a kind."""
    while True:
        event: dict[str, Any] = ask(adapter, "next")
        if event["event"] == kind:
            return event


def publish(adapter: Adapter, payload: str) -> str:
    """Publish on a node that is alone; the error's code."""
    number = adapter.begin("publish", {"topic": TOPIC, "payload": payload})
    while number not in adapter.answers:
        adapter.wait(1)
    return str(adapter.answers.pop(number)["error"]["code"])
