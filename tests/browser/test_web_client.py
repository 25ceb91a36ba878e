"""The client for browsers in Chromium against a live node: a page of another origin that is an app."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.browser.chromium import Chromium
from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import Answer, GatewayProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

LIB = Path(__file__).parents[2] / "client" / "js" / "lib"
PAGE = Path(__file__).parent / "app_page.html"
TOPIC = "/browser/1/chat/plain"
TOKEN = "page-token-0123456789"


class Site(NamedTuple):
    """A web server of another origin with the page and the client's modules."""

    origin: str
    directory: Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 - of the base class
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    (directory / "index.html").symlink_to(PAGE)
    (directory / "lib").symlink_to(LIB)
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Site(f"http://127.0.0.1:{server.server_port}", directory)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


class Served:
    """A node whose gateway comes back on the same port, as it does under a supervisor."""

    def __init__(self, directory: Path, origin: str) -> None:
        self.node = LogosUp(directory / "n", "max-topics-per-app=1200")
        tokens = directory / "tokens"
        tokens.write_text(f"{TOKEN} apps\n")
        tokens.chmod(0o600)
        self._arguments = (f"--rest-allow-origin={origin}", f"--rest-token-file={tokens}")
        self.node.wait_said("the node is ready: apps connect to")
        self.gateway = GatewayProcess(self.node.data_dir, *self._arguments)
        self._port = urlsplit(self.gateway.urls["rest"]).port

    def restart(self) -> None:
        """The gateway again, after a kill."""
        self.gateway = GatewayProcess(
            self.node.data_dir,
            *self._arguments,
            f"--rest-port={self._port}",
            "--metrics-server-port=0",
            automatic=False,
        )

    def page(self, site: Site, name: str, token: str = TOKEN) -> str:
        gateway = self.gateway.urls["rest"]
        return f"{site.origin}/?gateway={gateway}&name={name}&token={token}&topic={TOPIC}"

    def close(self) -> None:
        self.gateway.close()
        self.node.close()


@pytest.fixture(scope="module")
def served(site: Site) -> Iterator[Served]:
    with short_directory() as path:
        found = Served(path, site.origin)
        try:
            yield found
        finally:
            found.close()


def kept(browser: Chromium, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = browser.value(f"kept('{key}')")
    return found


def test_an_app_in_a_page_survives_reloads_and_the_gateways_death(
    browser: Chromium, site: Site, served: Served
) -> None:
    browser("fresh")
    browser("open", url=served.page(site, "page"))
    browser.wait("document.title === 'connected'")
    sent = browser.value("send('one')")
    browser.wait("kept('received').length >= 1")
    (first,) = kept(browser, "received")
    assert (first["text"], first["exact"]) == ("one", "bigint"), "nanoseconds are exact"
    found = browser.value("client.pending().then(({ sends, total }) => [total, hex(sends[0].request_id)])")
    assert found == [1, sent]
    assert browser.value("client.status().then((status) => Object.keys(status.topics))") == [TOPIC]
    assert browser.value("client.limits.max_payload") > 100_000

    # The page goes away and comes back: what was sent meanwhile comes.
    browser("open", url="about:blank")
    for _ in range(3):
        body = {"contentTopic": TOPIC, "payload": "bWlzc2Vk"}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert served.gateway.request("POST", "/apps/v1/outside/sends", body, headers=headers).status == 202
    browser("open", url=served.page(site, "page"))
    browser.wait("kept('received').length >= 4")
    assert {one["text"] for one in kept(browser, "received")} == {"one", "missed"}
    browser("reload")
    browser.wait("document.title === 'connected'")

    # The gateway is killed while the page sends: each accepted send arrives.
    browser.value("window.sending = sendMany(), 0")
    for _ in range(2):
        before = browser.value("accepted.length")
        browser.wait(f"accepted.length >= {before + 10}")
        served.gateway.kill()
        served.restart()
        browser.wait("client.connected")
    browser.value("window.enough = true, 0")
    accepted = set(browser.value("sending"))
    assert len(accepted) >= 20
    browser.wait("accepted.every((text) => kept('received').some((one) => one.text === text))", 60)
    places: dict[str, str] = {}
    for one in kept(browser, "received"):
        assert places.setdefault(one["at"], one["text"]) == one["text"], "a repeat has the place of the first"
    assert {"link_lost", "link_restored"} <= {one["kind"] for one in kept(browser, "other")}


def test_a_loop_whose_body_throws_leaves_its_event_to_come_again(
    browser: Chromium, site: Site, served: Served
) -> None:
    browser("fresh")
    browser("open", url=served.page(site, "watching"))
    browser.wait("document.title === 'connected'")
    browser.value("""window.failing = async (handled) => {
      const { MessagingClient } = await import("/lib/web/index.mjs");
      const query = new URLSearchParams(location.search);
      const options = { name: "failing", token: query.get("token") };
      const failing = await MessagingClient.connect(query.get("gateway"), options);
      await failing.subscribe(topic);
      if (!window.seen) await send("again"), window.seen = [];
      try {
        for await (const event of failing) {
          if (event.event !== "message_received") continue;
          seen.push(`${hex(event.stream_id)}:${event.seq}`);
          throw new Error("cannot handle it");
        }
      } catch (error) {
        return String(error);
      } finally {
        await failing.close({ handled });
      }
    }, 0""")
    for handled in ("undefined", "undefined", "true"):
        assert browser.value(f"failing({handled})") == "Error: cannot handle it"
    assert len(set(browser.value("seen"))) == 1
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def acknowledged(answer: Answer) -> bool:
        (app,) = (one for one in answer.json["apps"] if one["name"] == "failing")
        return bool(app["acked"] >= int(browser.value("seen")[0].partition(":")[2]))

    served.gateway.wait_for("/apps/v1", acknowledged, headers=headers)


def test_a_bad_name_is_refused_before_anything_is_asked(
    browser: Chromium, site: Site, served: Served
) -> None:
    browser("fresh")
    browser("open", url=served.page(site, "UPPER"))
    browser.wait("document.title.startsWith('failed: TypeError')")


def test_a_page_of_an_origin_that_is_not_allowed_gets_nothing(
    browser: Chromium, site: Site, served: Served
) -> None:
    browser("fresh")
    other = site._replace(origin=site.origin.replace("127.0.0.1", "localhost"))
    browser("open", url=served.page(other, "stranger"))
    browser.value(
        "import('/lib/web/index.mjs').then(({ MessagingClient }) => MessagingClient.connect("
        f"'{served.gateway.urls['rest']}', {{ name: 'stranger', token: '{TOKEN}', timeout: 1500 }})"
        ".catch((error) => { window.refused = error.code; })), 0"
    )
    browser.wait("window.refused === 'not_ready'")


def test_an_app_learns_all_its_topics(browser: Chromium, site: Site, served: Served) -> None:
    """265 KiB of them, where a reply of the Messaging API carries 256 KiB: the gateway requests the rest."""
    browser("fresh")
    browser("open", url=served.page(site, "topics"))
    browser.wait("document.title === 'connected'")
    more = "Array.from({ length: 1100 }, (_, number) => `/browser/1/${number}${'x'.repeat(220)}/plain`)"
    assert browser.value(f"client.subscribe({more})") == {}
    assert browser.value("client.subscriptions().then((topics) => new Set(topics).size)") == 1101
    assert browser.value("client.status().then(({ topics }) => Object.keys(topics).length)") == 1101


def test_a_page_uses_a_channel(browser: Chromium, site: Site, served: Served) -> None:
    browser("fresh")
    browser("open", url=served.page(site, "channel"))
    browser.wait("document.title === 'connected'")
    created = f"client.createChannel('room', '{TOPIC}', {{senderId: 'me', keys: [new Uint8Array(32)]}})"
    assert browser.value(created) == "me"
    assert browser.value(f"{created}.catch((error) => error.code)") == "conflict"
    (channel,) = browser.value("client.channels()")
    assert (channel["channel_id"], channel["encrypted"], channel["open"]) == ("room", True, True)
    sent = browser.value("client.sendToChannel('room', new Uint8Array([1, 2, 3])).then(hex)")
    assert len(sent) == 32
    assert browser.value("client.channelStatus('room')")["unacknowledged"] == 1
    assert browser.value("client.channelStatus('room').then(({ sends }) => hex(sends[0].request_id))") == sent
    browser.value("client.closeChannel('room').then(() => 'closed')")
    assert browser.value("client.channelExists('room')") is False
    browser.value("client.forgetChannel('room').then(() => 'forgotten')")
    assert browser.value("client.channels()") == []
