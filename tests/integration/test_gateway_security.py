"""Who may call the gateway, over TLS or not, and what clients that mean harm get."""

from __future__ import annotations

import datetime
import functools
import http.client
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.integration.logos_node import LogosUp, short_directory
from tests.support.gateway_process import GatewayProcess

pytestmark = pytest.mark.integration

APPS, KERNEL, ADMIN = "token-of-the-apps-1", "token-of-the-kernel", "token-of-the-admin1"
WRONG = "a-token-that-is-wrong"
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def node(directory: Path) -> Iterator[LogosUp]:
    up = LogosUp(directory / "n", "log-level=DEBUG")
    try:
        up.wait_said("the node is ready: apps connect to")
        yield up
    finally:
        up.close()


@pytest.fixture(scope="module")
def guarded(node: LogosUp, directory: Path) -> Iterator[GatewayProcess]:
    """A gateway with tokens and an allowed origin."""
    tokens = directory / "tokens"
    tokens.write_text(f"{APPS} apps\n{KERNEL} kernel\n{ADMIN} admin\n")
    tokens.chmod(0o600)
    with GatewayProcess(
        node.data_dir,
        "--rest-admin",
        f"--rest-token-file={tokens}",
        f"--rest-allow-origin={PAGE}",
        "--log-level=DEBUG",
    ) as process:
        ready = bearer(APPS)
        process.wait_for("/health", lambda answer: answer.json["nodeHealth"] == "READY", headers=ready)
        yield process


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- tokens and origins ------------------------------------------------------------------------------------

GROUPS = {
    "/relay/v1/messages/x": KERNEL,
    "/store/v3/messages": KERNEL,
    "/filter/v2/messages/x": KERNEL,
    "/kernel/v1/events": KERNEL,
    "/messaging/v1/events/received": APPS,
    "/apps/v1/me/sends": APPS,
    "/admin/v1/peers": ADMIN,
}


@pytest.mark.parametrize("path", GROUPS)
def test_every_group_asks_for_its_token(guarded: GatewayProcess, path: str) -> None:
    for headers in ({}, bearer(WRONG), {"Authorization": f"Basic {ADMIN}"}):
        refused = guarded.request("GET", path, headers=headers)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Bearer realm="logos"')
    other = APPS if GROUPS[path] != APPS else KERNEL
    assert guarded.request("GET", path, headers=bearer(other)).status == 403
    for token in (GROUPS[path], ADMIN):
        assert guarded.request("GET", path, headers=bearer(token)).status not in (401, 403)


def test_metrics_need_a_token_but_no_rights(guarded: GatewayProcess) -> None:
    assert guarded.request("GET", "/metrics", server="metrics").status == 401
    page = guarded.request("GET", "/metrics", headers=bearer(APPS), server="metrics")
    assert page.status == 200
    assert 'gateway_requests_refused_total{reason="unauthenticated"}' in page.text


def test_a_socket_names_its_token_as_a_subprotocol(guarded: GatewayProcess) -> None:
    url = guarded.urls["rest"].replace("http", "ws", 1) + "/apps/v1/me/socket"
    json_protocol = Subprotocol("logos.json.v1")
    for token, status in ((WRONG, 401), (KERNEL, 403)):
        protocols = [json_protocol, Subprotocol(f"logos.bearer.{token}")]
        with pytest.raises(InvalidStatus) as refused, connect(url, subprotocols=protocols):
            pass
        assert refused.value.response.status_code == status
    with connect(url, subprotocols=[json_protocol, Subprotocol(f"logos.bearer.{APPS}")]) as opened:
        assert opened.subprotocol == json_protocol  # the token is not repeated


def test_origins(guarded: GatewayProcess) -> None:
    ours = guarded.request("GET", "/version", headers={**bearer(APPS), "Origin": PAGE})
    assert (ours.status, ours.headers["access-control-allow-origin"], ours.headers["vary"]) == (
        200,
        PAGE,
        "Origin",
    )
    evil = guarded.request("GET", "/version", headers={**bearer(APPS), "Origin": "https://evil.example"})
    assert (evil.status, evil.text) == (403, "Origin not allowed")
    assert "access-control-allow-origin" not in evil.headers
    head = "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    two = raw(guarded, f"{head}Origin: {PAGE}\r\nOrigin: {PAGE}\r\n\r\n")
    assert two.startswith(b"HTTP/1.1 400 ")
    plain = guarded.request("GET", "/version", headers=bearer(APPS))
    assert "access-control-allow-origin" not in plain.headers
    refused = guarded.request("GET", "/version", headers={"Origin": PAGE})
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    assert guarded.request("OPTIONS", "/admin/v1/peers", headers={"Origin": PAGE}).status == 200


def test_no_token_is_in_logs_or_metrics(guarded: GatewayProcess) -> None:
    for token in (APPS, WRONG):
        guarded.request("GET", "/apps/v1/me/status", headers=bearer(token))
        guarded.request("GET", f"/apps/v1/{token}/status", headers=bearer(APPS))  # an app of that name
    page = guarded.request("GET", "/metrics", headers=bearer(ADMIN), server="metrics").text
    for token in (APPS, KERNEL, ADMIN, WRONG):
        assert token not in page
        assert f"Bearer {token}" not in guarded.log()
    for token in (KERNEL, ADMIN):
        assert token not in guarded.log()
    assert "ERR" not in guarded.log()  # strangers fill no log


def test_a_gateway_that_others_reach_needs_tokens(node: LogosUp, directory: Path) -> None:
    with pytest.raises(AssertionError, match="set rest-token-file"):
        GatewayProcess(node.data_dir, "--rest-address=0.0.0.0")
    loose = directory / "loose"
    loose.write_text(f"{APPS} apps\n")
    loose.chmod(0o644)
    with pytest.raises(AssertionError, match="others can read it"):
        GatewayProcess(node.data_dir, f"--rest-token-file={loose}")


# --- requests that mean harm -------------------------------------------------------------------------------


def raw(gateway: GatewayProcess, request: str | bytes, *more: bytes) -> bytes:
    """Send bytes as they are; everything that comes back until the gateway ends the connection."""
    url = urlsplit(gateway.urls["rest"])
    with socket.create_connection((url.hostname, url.port), timeout=20) as connection:
        try:
            connection.sendall(request.encode() if isinstance(request, str) else request)
            for part in more:
                connection.sendall(part)
        except OSError:
            pass  # it has refused before everything was sent
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
        return answer


HEAD = f"POST /apps/v1/me/sends HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {APPS}\r\n"
HIDDEN = f"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {APPS}\r\n\r\n"


@pytest.mark.parametrize(
    "request_text",
    [
        f"{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
        f"{HEAD}Content-Length: 0\r\nContent-Length: 60\r\n\r\n{HIDDEN}",
        f"{HEAD}Content-Length: 0, 60\r\n\r\n{HIDDEN}",
        f"{HEAD}Content-Length: +0\r\n\r\n{HIDDEN}",
        f"{HEAD}Transfer-Encoding: xchunked\r\n\r\n{HIDDEN}",
        f"{HEAD}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{HIDDEN}",
        f"{HEAD}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n{HIDDEN}",
        f"{HEAD}X: a\r\n\x00: b\r\n\r\n{HIDDEN}",
        f"GET /version HTTP/9.1\r\n\r\n{HIDDEN}",
    ],
)
def test_a_request_whose_end_is_in_doubt_smuggles_nothing(guarded: GatewayProcess, request_text: str) -> None:
    answer = raw(guarded, request_text)
    assert answer.count(b"HTTP/1.1 ") <= 1, answer
    assert b"200 OK" not in answer
    assert guarded.request("GET", "/version", headers=bearer(APPS)).status == 200


@pytest.mark.parametrize("pieces", [1, 40], ids=["at once", "in pieces"])
def test_a_head_beyond_the_limit_is_refused(guarded: GatewayProcess, pieces: int) -> None:
    lines = [f"X-{number}: {'y' * (80_000 // pieces)}\r\n".encode() for number in range(pieces)]
    answer = raw(guarded, b"GET /version HTTP/1.1\r\nHost: x\r\n", *lines, b"\r\n")
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 "), answer
    fits = {**bearer(APPS), "X-Long": "y" * 60_000}
    assert guarded.request("GET", "/version", headers=fits).status == 200


def test_slow_heads_and_bodies_are_cut(directory: Path) -> None:
    """With a gateway of its own: its little patience would also end the requests of other tests."""
    limits = {
        "logos_gateway.http_server:HEAD_SECONDS": 2.0,
        "logos_gateway.http_server:KEEP_ALIVE_SECONDS": 2.0,
        "logos_gateway.bodies:BODY_SECONDS": 2.0,
    }
    head = b"POST /apps/v1/me/sends HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    slow = (b"GET /version HTT", b"", head + b"Content-Length: 100\r\n\r\nabc")
    with GatewayProcess(directory / "slow", constants=limits) as gateway:
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(functools.partial(raw, gateway), slow))
        assert [answer[:13] for answer in answers] == [b"HTTP/1.1 408 "] * 3
        page = gateway.request("GET", "/metrics", server="metrics").text
        assert 'gateway_connections_refused_total{reason="slow_head"} 2.0' in page
        # Two requests on one connection, pipelined, and then none: it is closed, and not counted as slow.
        idle = raw(gateway, b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        assert idle.count(b"HTTP/1.1 ") == 2
        page = gateway.request("GET", "/metrics", server="metrics").text
        assert 'gateway_connections_refused_total{reason="slow_head"} 2.0' in page


def test_a_page_whose_name_points_here_gets_nothing(directory: Path) -> None:
    """DNS rebinding: to the browser the page is of our origin, so only the name in Host is wrong."""
    evil = {"Host": "evil.example:8645", "Origin": "http://evil.example:8645"}
    with GatewayProcess(directory / "open", "--rest-host=node.example") as gateway:
        for server in ("rest", "metrics"):
            refused = gateway.request("GET", "/health", headers=evil, server=server)
            assert (refused.status, "rest-host" in refused.text) == (421, True)
            assert (
                gateway.request("GET", "/health", headers={"Host": "node.example"}, server=server).status
                == 200
            )
        refused = gateway.request("POST", "/apps/v1/me/sends", {}, headers=evil)
        assert (refused.status, refused.headers["content-type"]) == (421, "application/problem+json")
        port = urlsplit(gateway.urls["rest"]).port
        url = f"ws://127.0.0.1:{port}/apps/v1/x/socket"
        with (
            pytest.raises(InvalidStatus) as denied,
            connect(url, additional_headers={"Host": "evil.example"}),
        ):
            pass
        assert denied.value.response.status_code == 421
        form = {
            "Origin": "https://evil.example",
            "Content-Type": "text/plain",
        }  # needs no permission to be sent
        refused = gateway.request("POST", "/relay/v1/auto/messages", b"{}", headers=form)
        assert (refused.status, refused.text) == (403, "Origin not allowed")
        page = gateway.request("GET", "/metrics", server="metrics").text
        assert 'gateway_requests_refused_total{reason="host"} 4.0' in page


# --- TLS ---------------------------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate of our own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / "cert.pem", directory / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


def test_tls(directory: Path) -> None:
    cert, key = certificate(directory)
    alone = directory / "alone"  # TLS needs no node behind it
    with GatewayProcess(alone, f"--rest-tls-cert={cert}", f"--rest-tls-key={key}") as gateway:
        url = urlsplit(gateway.urls["rest"])
        assert url.scheme == "https"
        assert url.hostname is not None
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=20)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        assert b"200 OK" not in raw(gateway, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(AssertionError, match="rest-tls-cert"):
        GatewayProcess(alone, f"--rest-tls-cert={key}", f"--rest-tls-key={key}")
