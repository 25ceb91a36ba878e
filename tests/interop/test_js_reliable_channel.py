"""js-waku's `ReliableChannel` and ours under profile `js`, over a network and both ways, acknowledged."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator

import pytest

from logos_client.events import ChannelMessageDelivered, ChannelMessageReceived, Event
from logos_client.messaging import MessagingClient
from tests.interop.json_lines import JsonLinesProcess
from tests.interop.npm import install_packages
from tests.interop.sdk.light_node import FOLDER
from tests.interop.sdk.network import CLUSTER, Served, served
from tests.support.aio import asyncio_test
from tests.support.kernel_process import short_directory
from tests.support.mapi_process import MapiProcess

pytestmark = [pytest.mark.interop, pytest.mark.integration, pytest.mark.timeout(300)]

TOPIC = "/interop/1/channel/proto"


class JsReliableChannel(JsonLinesProcess):
    """`reliable_channel.mjs`."""

    def __init__(self, address: str) -> None:
        node = shutil.which("node")
        assert node is not None
        command = [node, "--import", "./polyfill.mjs", "reliable_channel.mjs"]
        super().__init__("js", [*command, str(CLUSTER), address, TOPIC, "room", "js"], cwd=FOLDER)
        try:
            self.wait_event("ready", deadline=60)
        except BaseException:
            self.close()
            raise

    def send(self, payload: bytes) -> str:
        return str(self.request("send", payload=base64.b64encode(payload).decode())["messageId"])

    def wait_received(self, payload: bytes) -> None:
        """Pass over others: js-waku reports its own messages, and repeats, too."""
        text = base64.b64encode(payload).decode()
        self.wait_event("received", lambda event: event["payload"] == text, deadline=60)

    def wait_acknowledged(self, message_id: str) -> None:
        """Pass over others: what js-waku sent again in the meantime is acknowledged, and reported, again."""
        self.wait_event("acknowledged", lambda event: event["messageId"] == message_id, deadline=60)


@pytest.fixture
def network() -> Iterator[Served]:
    install_packages(FOLDER)
    with served("--rate-limit=lightpush:0/1s", "--store=true") as network:
        yield network


async def wait_for(
    app: MessagingClient, kind: type[ChannelMessageReceived | ChannelMessageDelivered]
) -> Event:
    while not isinstance(event := await app.next_event(60), kind):
        pass
    return event


@asyncio_test(deadline=200)
async def test_a_conversation_in_which_each_sees_that_the_other_has_it(network: Served) -> None:
    options = ("--channel-sync-interval=1s", "--channel-ack-timeout=2s", "--channel-repair-delay=500ms")
    with (
        short_directory() as directory,
        MapiProcess(directory / "m", *options, kernel_dir=network.far.directory) as mapi,
    ):
        await mapi.ready()
        js = JsReliableChannel(network.service.ws_address)
        try:
            async with MessagingClient.connect(mapi.run_dir, name="python") as app:
                await app.create_channel("room", TOPIC, sender_id="python", profile="js")
                for turn in range(3):
                    sent = js.send(b"from js %d" % turn)
                    got = await wait_for(app, ChannelMessageReceived)
                    assert isinstance(got, ChannelMessageReceived)
                    assert (got.sender_id, got.payload) == ("js", b"from js %d" % turn)
                    request = await app.send_to_channel("room", b"from python %d" % turn)
                    js.wait_received(b"from python %d" % turn)
                    js.wait_acknowledged(sent)
                    done = await wait_for(app, ChannelMessageDelivered)
                    assert isinstance(done, ChannelMessageDelivered)
                    assert (done.request_id, done.by) == (request, "js")
        finally:
            js.close()
