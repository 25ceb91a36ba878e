"""The Rust client: its own tests, its chat with Python's, and its client of a kernel, all on live processes.

The kit's scenarios and the kills under an app are in `make conformance` and `test_conformance_live`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.ours import BUILD_SECONDS, BUILT, Unavailable, rust_program
from ipc_schema.paths import mapi_endpoints
from logos_client import ChannelMessageDelivered, ChannelMessageReceived, MessagingClient
from tests.interop.inbox import CommandError
from tests.interop.json_lines import JsonLinesProcess
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess, short_directory
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import collect

pytestmark = [pytest.mark.compiled_client, pytest.mark.integration, pytest.mark.timeout(BUILD_SECONDS)]

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client" / "rust"
TOPIC = "/my-chat/1/room/plain"


@pytest.fixture(scope="module")
def programs() -> Path:
    """The directory of the client's programs, built. Skips only where there is no Rust."""
    try:
        return Path(rust_program("chat")[0]).parent
    except Unavailable as why:
        pytest.skip(str(why))


def cargo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cargo", *arguments],
        cwd=CLIENT,
        env=os.environ | {"CARGO_TARGET_DIR": str(BUILT / "rust")},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )


@contextmanager
def node() -> Iterator[tuple[KernelProcess, MapiProcess]]:
    with short_directory() as path, KernelProcess(path) as kernel, MapiProcess(path) as mapi:
        asyncio.run(_ready(mapi))
        yield kernel, mapi


async def _ready(mapi: MapiProcess) -> None:
    await mapi.ready()


def test_its_own_tests(programs: Path) -> None:
    done = cargo("test", "--release", "--locked", "--quiet", "--lib")
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    sources = [path.read_text() for path in (CLIENT / "src").rglob("*.rs")]
    count = sum(text.count("#[test]") + text.count("#[tokio::test") for text in sources)
    assert f"{count} passed; 0 failed; 0 ignored" in done.stdout


def test_its_names_are_the_contracts() -> None:
    done = subprocess.run(
        [sys.executable, CLIENT.parent / "make_rust_contract.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


class Chat:
    """`examples/chat.rs`."""

    def __init__(self, programs: Path, mapi: MapiProcess, nick: str) -> None:
        self.process = subprocess.Popen(
            [programs / "chat", mapi.run_dir, nick],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def until(self, line: str) -> list[str]:
        """What it prints, up to this line."""
        assert self.process.stdout is not None
        seen: list[str] = []
        for printed in self.process.stdout:
            seen.append(printed.rstrip("\n"))
            if seen[-1] == line:
                return seen
        raise AssertionError(f"it ended before {line!r}: {seen}")

    def end(self, number: int | None = None) -> int:
        """Its exit code, after the end of its input or a signal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if number is not None:
            self.process.send_signal(number)
        self.process.stdin.close()
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


def test_the_chat_with_a_python_app(programs: Path) -> None:
    """The channel of docs/build-an-app.md. The chat is killed, misses a line, and gets it when it is back."""
    with node() as (_, mapi):
        chat = Chat(programs, mapi, "ferris")
        try:

            @asyncio_test(60)
            async def talk() -> None:
                nonlocal chat
                async with MessagingClient.connect(mapi.run_dir, name="chat-guido") as python:
                    await python.create_channel("room", TOPIC, sender_id="guido")
                    chat.say("hello from Rust")
                    (got,) = await collect(python, ChannelMessageReceived, 1)
                    assert (got.sender_id, got.payload) == ("ferris", b"hello from Rust")
                    await python.send_to_channel("room", "grüße".encode())
                    await asyncio.to_thread(chat.until, "guido: grüße")
                    (done,) = await collect(python, ChannelMessageDelivered, 1)
                    assert done.by == "ferris"
                    assert chat.end(signal.SIGKILL) == -signal.SIGKILL
                    await python.send_to_channel("room", b"are you there?")
                    chat = Chat(programs, mapi, "ferris")
                    seen = await asyncio.to_thread(chat.until, "guido: are you there?")
                    # At least once: what it had in its hands when it was killed may come again.
                    assert seen.count("guido: are you there?") == 1

            talk()
            assert chat.end() == 0
        finally:
            if chat.process.poll() is None:
                chat.end(signal.SIGKILL)


def test_a_named_app_that_is_killed_goes_on_behind_what_it_had_handled(programs: Path) -> None:
    with node() as (_, mapi):
        endpoint = mapi_endpoints(mapi.run_dir).apps

        def app() -> JsonLinesProcess:
            started = JsonLinesProcess("rust app", [str(programs / "conformance")], cwd=ROOT)
            started.request("connect", endpoint=endpoint, name="durable", deadline=20)
            return started

        def take(process: JsonLinesProcess, count: int) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            while len(found) < count:
                event: Any = process.request("next", deadline=20)
                if event["event"] == "message_received":
                    found.append(event)
            return found

        first = app()
        assert first.request("subscribe", topics=[TOPIC]) == {}
        for number in range(4):
            first.request("send", topic=TOPIC, payload=bytes([number]).hex())
        before = take(first, 3)
        first.request("ack")
        first.kill()
        second = app()
        try:
            (after,) = take(second, 1)
            assert (after["payload"], after["stream_id"]) == ("03", before[0]["stream_id"])
            seqs = [event["seq"] for event in (*before, after)]
            assert seqs == sorted(set(seqs))
            assert second.request("subscriptions") == [TOPIC]
        finally:
            second.close()


def test_the_kernel_s_streams_through_a_kill(programs: Path) -> None:
    """Messages, health and peers; a kernel that is killed is lost, found as another one, and followed."""
    with short_directory() as path, KernelProcess(path) as kernel:
        command = [str(programs / "kernel"), str(path / "run"), "0"]
        with closing(JsonLinesProcess("rust kernel client", command, cwd=ROOT)) as client:
            client.wait_event("connected", deadline=20)
            assert client.request("health")["state"]
            assert client.request("peers") == {"peers": [], "total": 0}
            assert client.request("info") == 1
            with pytest.raises(CommandError, match="no_peers"):
                client.request("query", topic=TOPIC)
            with pytest.raises(CommandError, match="no_peers"):
                client.request("publish", topic=TOPIC, payload=b"one".hex())
            first = client.wait_event("message", deadline=20)
            assert (first["payload"], first["content_topic"], first["source"]) == (b"one".hex(), TOPIC, 2)
            kernel.stop(signal.SIGKILL)
            client.wait_event("kernel_lost", deadline=20)
            kernel.start()
            assert client.wait_event("kernel_found", deadline=30)["restarted"] is True
            loss = client.wait_event("stream_loss", deadline=30)
            assert (loss["stream"], loss["first"], loss["last"]) == (first["stream"], first["seq"] + 1, None)
            with pytest.raises(CommandError, match="no_peers"):
                client.request("publish", topic=TOPIC, payload=b"two".hex())
            second = client.wait_event("message", deadline=20)
            assert (second["payload"], second["seq"]) == (b"two".hex(), 1)
            assert second["instance"] != first["instance"]


def test_what_a_slow_reader_leaves_with_the_kernel_is_replayed_in_order(programs: Path) -> None:
    with short_directory() as path, KernelProcess(path):
        command = [str(programs / "kernel"), str(path / "run"), "0", "20000"]
        with closing(JsonLinesProcess("rust kernel client", command, cwd=ROOT)) as client:
            client.wait_event("connected", deadline=20)
            client.request("pause")
            payloads = [bytes([number]) * 5_000 for number in range(30)]  # seven times what may wait
            for payload in payloads:
                with pytest.raises(CommandError, match="no_peers"):
                    client.request("publish", topic=TOPIC, payload=payload.hex())
            client.request("resume")
            got = [client.wait_event("message", deadline=20) for _ in payloads]
            assert [event["payload"] for event in got] == [payload.hex() for payload in payloads]
            assert [event["seq"] for event in got] == list(range(1, 31))
            assert client.pending("stream_loss") == []


@contextmanager
def closing(process: JsonLinesProcess) -> Iterator[JsonLinesProcess]:
    try:
        yield process
    finally:
        process.close()
