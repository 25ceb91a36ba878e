"""The dashboard in Chromium against a live node: what it shows, when it is stale, its policy, its tokens."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.browser.chromium import Chromium
from tests.browser.served_node import CONTENT, ServedNode, send, served_node
from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import GatewayProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def served() -> Iterator[ServedNode]:
    with served_node() as found:
        yield found


def address(gateway: GatewayProcess) -> str:
    return gateway.urls["rest"] + "/dashboard"


def opened(browser: Chromium, url: str, **context: object) -> None:
    browser("fresh", **context)
    assert browser("open", url=url) == 200


def cell(body: str, row: int, column: int) -> str:
    """An expression: the text of a cell."""
    return f"document.querySelector('#{body} tr:nth-child({row}) > :nth-child({column})')?.textContent ?? ''"


LIVE = "document.getElementById('live').classList.contains('fresh')"
STALE = "document.getElementById('live').classList.contains('stale')"


def test_what_the_node_is_and_does(browser: Chromium, served: ServedNode) -> None:
    opened(browser, address(served.gateway))
    browser.wait(LIVE)
    browser.wait(f"{cell('protocols', 1, 2)} !== ''")
    assert browser("text", selector="#node-state").strip() == "ready"
    assert "cluster 7" in browser("text", selector="#network")
    browser.wait("document.querySelectorAll('#peer-rows tr[data-key]').length === 1")
    browser.wait(f"{cell('peer-rows', 1, 2)}.startsWith('logos-kernel/')")
    browser.wait(f"{cell('peer-rows', 1, 7)}.startsWith('shard ')")
    assert browser.value(cell("peer-rows", 1, 4)) == "inbound"
    browser.wait(f"{cell('shards', 1, 3)}.startsWith('1 of 1')")
    browser.wait(f"{cell('app-rows', 1, 1)} === 'station'")
    browser.wait("document.querySelectorAll('#process-rows tr[data-key]').length === 3")
    browser.wait("!document.getElementById('archive').hidden")
    # A send without a store that could confirm it stays, with its cause.
    send(served.gateway, "the first")
    browser.wait(f"{cell('send-rows', 1, 3)} === 'propagated'")
    browser.wait(f"{cell('send-rows', 1, 6)}.includes('store')")
    browser.wait(f"{cell('app-rows', 1, 7)} === '1'")


def test_messages_as_they_come_with_filters_and_payloads_on_demand(
    browser: Chromium, served: ServedNode
) -> None:
    opened(browser, address(served.gateway))
    browser.wait(LIVE)
    browser.wait("document.querySelectorAll('#filter-shard option').length > 1")
    browser("click", selector="#watch")
    browser.wait("document.getElementById('watch').getAttribute('aria-pressed') === 'true'")
    count = "document.querySelectorAll('#message-rows tr[data-key]').length"

    def watched(text: str, condition: str) -> None:
        """Send until the page has seen it: its stream may not have been open for the first."""
        while not browser.value(condition):
            send(served.peer, text)
            browser.wait("new Promise((resolve) => setTimeout(resolve, 300, true))")

    watched("secret <img src=x onerror=alert(1)>", f"{count} > 0")
    assert browser.value(cell("message-rows", 1, 2)) == CONTENT
    assert browser.value(cell("message-rows", 1, 4)) == "relay"
    shown = "document.querySelector('#message-rows').textContent"
    assert "payload not fetched" in browser.value(shown)
    assert "secret" not in browser.value(shown)
    browser("fill", selector="#filter-topic", value="no such topic")
    browser.wait(f"{count} === 0")
    browser("fill", selector="#filter-topic", value="berlin")
    browser.wait(f"{count} > 0")
    browser("click", selector="#with-payload")
    watched("secret <img src=x onerror=alert(1)>", f"{shown}.includes('secret <img src=x onerror=alert(1)>')")
    assert browser.value("document.images.length") == 0, "what the network sends is text"
    browser("click", selector="#watch")
    browser.wait("document.getElementById('watch').getAttribute('aria-pressed') === 'false'")


def test_the_log_level_at_run_time(browser: Chromium, served: ServedNode) -> None:
    opened(browser, address(served.gateway))
    browser.wait("!document.getElementById('log-set').disabled")
    browser("select", selector="#log-level", value="WARN")
    browser("click", selector="#log-set")
    browser.wait("document.getElementById('log-result').textContent.includes('WARN is set; kernel was INFO')")
    answer = served.gateway.request("PUT", "/gateway/v1/log-level", {"level": "info"})
    assert answer.json == {"previous": {"kernel": "WARN", "mapi": "WARN"}}


def test_it_says_when_it_is_stale_and_comes_back(browser: Chromium, served: ServedNode) -> None:
    opened(browser, address(served.gateway))
    browser.wait(LIVE)
    os.kill(served.gateway.process.pid, signal.SIGSTOP)
    try:
        browser.wait(STALE)
        assert browser("text", selector="#live-text").startswith("Stale")
    finally:
        os.kill(served.gateway.process.pid, signal.SIGCONT)
    browser.wait(LIVE)


def test_it_is_readable_without_eyes_without_a_mouse_and_on_a_phone(
    browser: Chromium, served: ServedNode
) -> None:
    opened(browser, address(served.gateway), width=390, height=800, scheme="dark")
    browser.wait(LIVE)
    browser.wait("document.querySelectorAll('#peer-rows tr[data-key]').length === 1")
    browser.wait("document.querySelector('#tiles .chart').getAttribute('aria-label').includes(': now ')")
    width = browser.value("document.documentElement.scrollWidth")
    assert width <= 390, "nothing has to be scrolled sideways"
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 27)"
    tree = browser("accessible")
    wanted = (
        'heading "Logos node"',
        "Live",
        'table "Connected peers"',
        'img "Messages per second: now',
    )
    for line in wanted:
        assert line in tree
    browser("press", key="Tab")
    assert browser.value("document.activeElement.textContent") == "Skip to the content"
    for _ in range(12):
        browser("press", key="Tab")
        if browser.value("document.activeElement.id") == "watch":
            break
    assert browser.value("document.activeElement.id") == "watch"


def test_the_page_loads_nothing_from_elsewhere_and_complains_of_nothing(
    browser: Chromium, served: ServedNode
) -> None:
    browser("fresh")
    earlier = len(browser.seen("request"))  # by pages of other tests, some of another gateway
    opened(browser, address(served.gateway))
    browser.wait(LIVE)
    policy = served.gateway.request("GET", "/dashboard").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    hosts = {urlsplit(one["url"]).netloc for one in browser.seen("request")[earlier:]}
    assert hosts == {urlsplit(address(served.gateway)).netloc}
    assert browser.seen("pageerror") == []
    refused = [one["text"] for one in browser.seen("console") if "Content Security Policy" in one["text"]]
    assert refused == []


def test_the_page_of_the_api_shows_every_operation(browser: Chromium, served: ServedNode) -> None:
    opened(browser, served.gateway.urls["rest"] + "/docs")
    document = served.gateway.request("GET", "/openapi.json").json
    count = sum(len(item) for item in document["paths"].values())
    browser.wait(f"document.querySelectorAll('details.operation').length === {count}")
    browser("fill", selector="#find", value="idempotency-key")
    fitting = sum(
        "idempotency-key" in str(one).lower() for item in document["paths"].values() for one in item.values()
    )
    assert 0 < fitting < count
    browser.wait("document.querySelector('details.operation[hidden]') !== null")
    shown = browser.value("document.querySelectorAll('details.operation:not([hidden])').length")
    assert shown == fitting
    browser.wait(f"document.getElementById('found').textContent === '{fitting} operations fit'")


def test_a_token_is_asked_for_and_a_kernel_alone_is_enough(browser: Chromium) -> None:
    with short_directory() as path:
        token = "kernel-token-0123456789"
        file = path / "tokens"
        file.write_text(f"{token} kernel\napps-only-token-0123456789 apps\n")
        file.chmod(0o600)
        node = LogosUp(path / "n", "--kernel-only", "cluster-id=7", "shard=0")
        try:
            node.wait_said("the node is ready")
            with GatewayProcess(
                node.data_dir, "--dashboard", "--mapi=false", f"--rest-token-file={file}"
            ) as gateway:
                opened(browser, address(gateway))
                browser.wait("document.getElementById('sign-in').open")
                browser("fill", selector="#token", value="wrong-token-0123456789")
                browser("press", key="Enter")
                browser.wait("document.getElementById('sign-in-error').textContent.includes('not known')")
                browser("fill", selector="#token", value="apps-only-token-0123456789")
                browser("press", key="Enter")
                browser.wait("document.getElementById('sign-in-error').textContent.includes('scope kernel')")
                browser("fill", selector="#token", value=token)
                browser("press", key="Enter")
                browser.wait(LIVE)
                browser.wait(f"{cell('protocols', 1, 2)} !== ''")
                assert browser.value("getComputedStyle(document.getElementById('apps')).display") == "none"
                assert browser.value("document.getElementById('log-set').disabled")
                browser("reload")
                browser.wait(LIVE)
        finally:
            node.close()
