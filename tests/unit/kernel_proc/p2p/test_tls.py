"""Secure WebSockets between hosts: the check of certificates, and certificates that are renewed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from kernel_proc.p2p import tls
from kernel_proc.p2p.api import DialError
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.tls import ServerCertificate
from tests.support.aio import trio_test
from tests.support.certificates import Certificates
from tests.unit.kernel_proc.p2p.support import WS, echo, host, until

WSS = "/ip4/127.0.0.1/tcp/0/wss"
PROTOCOL = "/echo/1"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    found = Certificates(tmp_path, "localhost", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(found.trusted))
    return found


def loaded(files: Certificates) -> ServerCertificate:
    return ServerCertificate(files.chain, files.key)


def port_of(address: str) -> int:
    return int(address.split("/")[4])


async def shown(port: int) -> int:
    """The serial number of the certificate that is shown at a port."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    stream = trio.SSLStream(tcp, context, server_hostname="localhost", https_compatible=True)
    async with stream:
        await stream.do_handshake()
        return x509.load_der_x509_certificate(stream.getpeercert(binary_form=True)).serial_number


@trio_test()
async def test_hosts_talk_over_a_secure_websocket_by_name_address_and_sni(files: Certificates) -> None:
    async with host(listen=(WSS,), certificate=loaded(files)) as (server, events):
        server.set_stream_handler(PROTOCOL, echo)
        port = port_of(server.listen_addresses[0])
        for dialled, known_as in (
            (f"/dns4/localhost/tcp/{port}/wss", f"/ip4/127.0.0.1/tcp/{port}/tls/sni/localhost/ws"),
            (f"/ip4/127.0.0.1/tcp/{port}/tls/ws", f"/ip4/127.0.0.1/tcp/{port}/wss"),
            (f"/ip4/127.0.0.1/tcp/{port}/tls/sni/localhost/ws",) * 2,
        ):
            async with host() as (client, _):
                peer_id = await client.connect(f"{dialled}/p2p/{server.peer_id}")
                assert client.connections()[0].address == known_as
                stream = await client.open_stream(peer_id, [PROTOCOL])
                message = bytes(range(256)) * 4096  # many TLS records
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.write, message)
                    received = b""
                    while len(received) < len(message):
                        received += await stream.read()
                assert received == message
                await events.wait_for("identified")
                identity = server.identity(client.peer_id)
                assert identity is not None
                # The peer gets its address in a form that every implementation can read.
                assert identity.observed_address == f"/ip4/127.0.0.1/tcp/{port}/wss"
            await events.wait_for("disconnected")
            events.log.clear()


@trio_test()
async def test_a_dial_says_what_is_wrong_with_a_certificate(
    files: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with host(listen=(WSS, WS), certificate=loaded(files)) as (server, _), host() as (client, _):
        secure, plain = map(port_of, server.listen_addresses)
        with pytest.raises(DialError, match=r"TLS handshake failed|closed in the TLS handshake"):
            await client.connect(f"/dns4/localhost/tcp/{plain}/wss")
        with pytest.raises(DialError, match=r"certificate is not accepted: Hostname mismatch"):
            await client.connect(f"/ip4/127.0.0.1/tcp/{secure}/tls/sni/another.example/ws")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    async with host(listen=(WSS,), certificate=loaded(files)) as (server, _), host() as (client, _):
        with pytest.raises(DialError, match=r"certificate is not accepted: unable to get local issuer"):
            await client.connect(f"/dns4/localhost/tcp/{port_of(server.listen_addresses[0])}/wss")


@trio_test()
async def test_a_handshake_that_stops_is_cut_off_and_costs_no_others(files: Certificates) -> None:
    limits = HostLimits(handshake_timeout=0.2, max_per_ip=0, max_half_open_per_ip=0)
    async with host(listen=(WSS,), limits=limits, certificate=loaded(files)) as (server, _):
        port = port_of(server.listen_addresses[0])
        silent = await trio.open_tcp_stream("127.0.0.1", port)
        await silent.send_all(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        async with silent, host() as (client, _):
            await client.connect(f"/dns4/localhost/tcp/{port}/wss")
            await until(lambda: server.counters().get("handshake_failed") == 1)
            assert await silent.receive_some(1) == b""


@trio_test()
async def test_a_renewed_certificate_is_shown_and_half_a_pair_is_not(
    files: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.0)
    async with host(listen=(WSS,), certificate=loaded(files)) as (server, _):
        port = port_of(server.listen_addresses[0])
        first = files.serial
        assert await shown(port) == first
        files.renew()
        second = files.serial
        assert await shown(port) == second != first
        key = files.key.read_bytes()
        files.renew()
        third, new_key = files.serial, files.key.read_bytes()
        files.key.write_bytes(key)  # the certificate has come, its key has not
        for _ in range(2):
            assert await shown(port) == second
        files.key.unlink()
        for _ in range(2):
            assert await shown(port) == second
        files.key.write_bytes(new_key)
        assert await shown(port) == third
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warnings == ["the previous certificate stays in use"] * 2  # once for each reason


def test_a_pair_with_the_times_and_sizes_of_the_one_before_is_loaded(
    files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a copy that keeps the time, or a chmod that makes the key readable."""
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(trio, "current_time", lambda: 0.0)
    paths = (files.chain, files.key)

    def write(contents: Sequence[bytes]) -> None:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content.ljust(8192, b"\n"))
            os.utime(path, (1_800_000_000, 1_800_000_000))

    write([path.read_bytes() for path in paths])
    certificate = loaded(files)
    first = certificate.expires
    inodes = [path.stat().st_ino for path in paths]
    renewed = Certificates(
        files.chain.parent / "renewed", "localhost", until=datetime(2030, 1, 1, tzinfo=UTC)
    )
    write([renewed.chain.read_bytes(), renewed.key.read_bytes()])
    assert [path.stat().st_ino for path in paths] == inodes
    assert certificate.expires == datetime(2030, 1, 1, tzinfo=UTC).timestamp() != first


def test_files_that_do_not_belong_together_are_refused_at_once(files: Certificates, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        ServerCertificate(tmp_path / "none.pem", files.key)
    with pytest.raises(ValueError, match=r"fullchain\.pem and .*fullchain\.pem are not a certificate"):
        ServerCertificate(files.chain, files.chain)
    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ValueError, match=r"privkey\.pem is encrypted"):
        loaded(files)
