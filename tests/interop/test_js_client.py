"""The Node.js client: the contract's vectors, and a live Messaging API shared with a Python app."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from conformance.ours import OURS
from ipc_schema.paths import mapi_endpoints
from logos_client import ChannelMessageReceived, MessageReceived, MessagingClient
from tests.interop.inbox import CommandError
from tests.interop.json_lines import JsonLinesProcess
from tests.interop.kernel_kill import follow_a_kernel_through_a_kill
from tests.support.aio import asyncio_test
from tests.support.kernel_process import KernelProcess
from tests.support.mapi_process import MapiProcess
from tests.support.nodes import collect

pytestmark = [pytest.mark.interop, pytest.mark.integration]

CLIENT = Path(__file__).parents[2] / "client" / "js"
TOPIC = "/toychat/2/huilong/proto"
NPM_CI_SECONDS = 110


@pytest.fixture(scope="module")
def node() -> str:
    """The Node.js program, with the client's locked packages installed. Skips only where there is no
    Node.js."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("no `node` and `npm` here")
    lock, installed = CLIENT / "package-lock.json", CLIENT / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit"],
            cwd=CLIENT,
            capture_output=True,
            text=True,
            timeout=NPM_CI_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
        installed.touch()
    return program


@contextmanager
def messaging_api(directory: Path) -> Iterator[MapiProcess]:
    """A node of its own: what one app sends reaches the others on it."""
    with KernelProcess(directory), MapiProcess(directory) as mapi:
        asyncio.run(_ready(mapi))
        yield mapi


async def _ready(mapi: MapiProcess) -> None:
    await mapi.ready()


class JsApp(JsonLinesProcess):
    """`client/js/app.mjs` on a Messaging API."""

    def __init__(self, node: str, mapi: MapiProcess, name: str | None = None) -> None:
        endpoint = mapi_endpoints(mapi.run_dir).apps
        super().__init__("js app", [node, "app.mjs", endpoint, *([name] if name else [])], cwd=CLIENT)
        self.wait_event("connected", deadline=20)

    def messages(self, count: int) -> list[dict[str, Any]]:
        return [self.wait_event("message_received", deadline=20) for _ in range(count)]

    def send(self, payload: bytes, **rest: str) -> str:
        """Send on the topic; the request id in hex."""
        return str(self.request("send", topic=TOPIC, payload=payload.hex(), **cast("dict[str, Any]", rest)))

    def __enter__(self) -> JsApp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def send_from_python(mapi: MapiProcess, payloads: list[bytes]) -> None:
    """An ephemeral Python app sends these, one accepted after another."""

    async def main() -> None:
        async with MessagingClient.connect(mapi.run_dir) as client:
            for payload in payloads:
                await client.send(TOPIC, payload)

    asyncio.run(main())


def test_its_own_tests(node: str) -> None:
    done = subprocess.run(
        [node, "--test", "test/messaging.test.mjs", "test/vectors.test.mjs", "test/cursor.test.mjs"],
        cwd=CLIENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5_000:]
    counts = dict(line[2:].split(" ", 1) for line in done.stdout.splitlines() if line.startswith("# "))
    assert int(counts["pass"]) > 140
    assert counts["fail"] == "0"


def test_its_types(node: str) -> None:
    """The package's own code, and a program in TypeScript that uses it, both by `tsc`."""
    for project in (".", "test/types"):
        done = subprocess.run(
            [node, "node_modules/typescript/bin/tsc", "-p", project],
            cwd=CLIENT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "")


def test_its_names_are_the_contracts() -> None:
    """`python client/make_js_contract.py` writes them."""
    done = subprocess.run(
        [sys.executable, CLIENT.parent / "make_js_contract.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("node")
def test_a_kernel_is_followed_through_a_kill() -> None:
    follow_a_kernel_through_a_kill(OURS["node"](), "node")


def test_a_channel_with_a_python_app(node: str, tmp_path: Path) -> None:
    """A payload of three blobs one way, a small one the other; each sees that the other has it."""
    with messaging_api(tmp_path) as mapi, JsApp(node, mapi) as app:

        @asyncio_test(60)
        async def talk() -> None:
            async with MessagingClient.connect(mapi.run_dir) as python:
                mine = await python.create_channel("room", TOPIC)
                theirs = app.request("create_channel", channel="room", topic=TOPIC)
                large = os.urandom(5 << 19)
                sent = app.request("send_to_channel", channel="room", payload=large.hex(), deadline=30)
                (got,) = await collect(python, ChannelMessageReceived, 1)
                assert (got.sender_id, got.payload) == (theirs, large)
                await python.send_to_channel("room", b"hello")
                event = app.wait_event("channel_message_received", deadline=20)
                assert (event["sender_id"], event["payload"]) == (mine, b"hello".hex())
                done = app.wait_event("channel_message_delivered", deadline=20)
                assert (done["request_id"], done["by"]) == (sent, mine)

        talk()


def test_both_ways_with_a_python_app(node: str, tmp_path: Path) -> None:
    with messaging_api(tmp_path) as mapi, JsApp(node, mapi) as app:
        assert app.request("subscribe", topics=[TOPIC, "no topic"]).keys() == {"no topic"}

        @asyncio_test()
        async def talk() -> None:
            async with MessagingClient.connect(mapi.run_dir) as python:
                await python.subscribe(TOPIC)
                large = os.urandom(python.limits.max_payload)
                for payload in (b"from python", large):
                    await python.send(TOPIC, payload, meta=b"meta")
                own = await collect(python, MessageReceived, 2)
                for sent, got in zip(own, await asyncio.to_thread(app.messages, 2), strict=True):
                    assert got["payload"] == sent.payload.hex()
                    assert got["message_hash"] == sent.message_hash.hex()
                    assert int(got["timestamp"]) == sent.timestamp
                    assert (got["content_topic"], got["meta"]) == (TOPIC, b"meta".hex())
                request_id = await asyncio.to_thread(app.send, b"from js")
                assert len(bytes.fromhex(request_id)) == 16
                (message,) = await collect(python, MessageReceived, 1)
                assert message.payload == b"from js"

        talk()
        assert app.messages(1)[0]["payload"] == b"from js".hex()
        assert "topics" in app.request("status")


def test_errors_have_their_code_and_ids_are_idempotent(node: str, tmp_path: Path) -> None:
    with messaging_api(tmp_path) as mapi, JsApp(node, mapi, "js") as app:
        with pytest.raises(CommandError, match="bad_request"):
            app.send(b"")
        with pytest.raises(CommandError, match="unknown_method"):
            app.request("call", method="no.such", body={})
        request_id = app.send(b"once")
        assert app.send(b"once", request_id=request_id) == request_id
        with pytest.raises(CommandError, match="conflict"):
            app.send(b"other", request_id=request_id)


def test_a_named_app_goes_on_after_both_ends_were_killed(node: str, tmp_path: Path) -> None:
    with messaging_api(tmp_path) as mapi:
        app = JsApp(node, mapi, "js")
        app.request("subscribe", topics=[TOPIC])
        send_from_python(mapi, [b"1", b"2"])
        first = app.messages(2)
        mapi.kill()
        mapi.start()
        asyncio.run(_ready(mapi))
        send_from_python(mapi, [b"3"])
        second = app.messages(1)
        assert second[0]["payload"] == b"3".hex()
        assert second[0]["stream_id"] == first[0]["stream_id"]
        assert app.send(b"4")  # the same connection object still sends
        app.messages(1)
        assert app.pending("stream_lost") == []
        app.kill()
        send_from_python(mapi, [b"5"])
        with JsApp(node, mapi, "js") as again:
            # What was not acknowledged before the end comes once more, under the same seq.
            late = again.wait_event(
                "message_received", lambda event: event["payload"] == b"5".hex(), deadline=20
            )
            assert late["stream_id"] == first[0]["stream_id"]
            assert late["seq"] > second[0]["seq"]
            repeats = {event["seq"]: event["payload"] for event in again.pending("message_received")}
            known = {event["seq"]: event["payload"] for event in (*first, *second)}
            assert {seq: repeats[seq] for seq in repeats.keys() & known} == {
                seq: known[seq] for seq in repeats.keys() & known
            }


def test_an_app_that_does_not_look_is_not_sent_more_than_its_credit(node: str, tmp_path: Path) -> None:
    payloads = [bytes([number]) * 20_000 for number in range(60)]  # 1.2 MB, six times the credit
    with messaging_api(tmp_path) as mapi, JsApp(node, mapi, "js") as app:
        app.request("subscribe", topics=[TOPIC])
        app.request("pause")
        send_from_python(mapi, payloads)
        app.request("resume")
        got = app.messages(len(payloads))
        assert [event["payload"][:2] for event in got] == [f"{number:02x}" for number in range(60)]
        seqs = [event["seq"] for event in got]
        assert seqs == sorted(set(seqs))
