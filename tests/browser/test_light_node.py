"""js-waku in a browser against a kernel: by secure WebSocket, the only way from a page to a node."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium
from tests.interop.npm import install_packages
from tests.interop.sdk.network import CLUSTER, served
from tests.support.certificates import Certificates

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.timeout(240)]

SDK = Path(__file__).parents[1] / "interop" / "sdk"
NAME = "node.example"
TOPIC = "/browser/1/chat/proto"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with the light node."""
    install_packages(SDK)
    directory = tmp_path_factory.mktemp("page")
    bundler = [str(SDK / "node_modules" / ".bin" / "esbuild"), "light_page.mjs", "--bundle", "--format=esm"]
    subprocess.run(
        [*bundler, "--log-level=error", f"--outfile={directory / 'light.js'}"],
        cwd=SDK,
        check=True,
        timeout=60,
    )
    (directory / "index.html").write_text('<!doctype html><script type="module" src="light.js"></script>')
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_page_pushes_receives_and_reads_history(page: str, tmp_path: Path) -> None:
    """The browser knows the certificate by its key and the name by a rule; it checks the rest as ever."""
    files = Certificates(tmp_path, NAME)
    trust = f"--ignore-certificate-errors-spki-list={files.pin}"
    with (
        served(*files.options, "--store=true", f"--dns4-domain-name={NAME}") as network,
        Chromium(trust, f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as browser,
    ):
        address = network.service.ws_address.replace("/ip4/127.0.0.1/", f"/dns4/{NAME}/")
        assert "/wss/" in address
        browser("open", url=page)
        browser.wait("globalThis.light !== undefined")
        (connected,) = browser.value(f"light.start({CLUSTER}, '{address}')")
        assert connected == address
        assert browser.value(f"light.subscribe('{TOPIC}')") is True

        reader = network.reader()
        pushed = browser.value(f"light.send('{TOPIC}', 'from the page')")
        assert (pushed["successes"], pushed["failures"]) == ([network.service.peer_id], [])
        event, payload = reader.message()
        assert (event.message_hash.hex(), payload) == (pushed["hash"], b"from the page")
        reader.close()

        published = network.publish(TOPIC, b"to the page", time.time_ns())
        browser.wait(f"light.received.some(({{ hash }}) => hash === '{published.hex()}')")

        both = [bytes.fromhex(pushed["hash"]), published]
        network.stored(both)
        history = {one["hash"]: one["text"] for one in browser.value(f"light.history('{TOPIC}')")}
        assert history == {pushed["hash"]: "from the page", published.hex(): "to the page"}
