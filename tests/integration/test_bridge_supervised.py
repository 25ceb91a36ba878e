"""The bridge under `logos up`, with TLS and an NKey; what its status and the gateway's metrics say."""

from __future__ import annotations

import datetime
import json
import re
import urllib.request
from ipaddress import ip_address
from pathlib import Path

import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.grafana import BRIDGE, alert_queries, dashboard_queries, names_in, served_names
from tests.integration.logos_node import LogosUp, logos, short_directory, wait_for
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nats")])
    today = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "cert.pem", directory / "key.pem"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def user(directory: Path) -> tuple[str, Path]:
    """A user's public key, and the file of the seed."""
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    path = directory / "user.nk"
    path.write_bytes(seed)
    path.chmod(0o600)
    return nkeys.from_seed(bytearray(seed)).public_key.decode(), path


def test_logos_up_runs_it_and_tells_how_it_is() -> None:
    with short_directory() as directory:
        cert, key = certificate(directory)
        public, seed = user(directory)
        settings = (
            f'tls {{ cert_file: "{cert}", key_file: "{key}" }}',
            f"authorization {{ users: [ {{ nkey: {public} }} ] }}",
        )
        with NatsServer("n1", *settings) as server:
            server.wait_ready()
            url = server.url.replace("nats://", "tls://")
            words = (f"nats-url={url}", f"nats-nkey-seed={seed}", f"nats-tls-ca={cert}")
            node = LogosUp(directory / "d", *words, "metrics-server=true", "metrics-server-port=0")
            try:
                node.wait_said("bridge is ready, process")
                where = ("--data-dir", str(node.data_dir))
                shown = logos("bridge", "status", *where)
                assert shown.returncode == 0, shown.stdout + shown.stderr
                assert "bridge   works" in shown.stdout
                assert re.search(r"shard 0: \d+\.\d s behind", shown.stdout)
                status = json.loads(logos("bridge", "status", "--json", *where).stdout)
                node.remember(status["pid"])
                addresses = json.loads((node.data_dir / "run" / "gateway" / "address.json").read_text())

                def metrics() -> str:
                    with urllib.request.urlopen(f"{addresses['metrics']}/metrics", timeout=20) as answer:
                        return str(answer.read().decode())

                queries = [one for one in (*dashboard_queries(), *alert_queries()) if BRIDGE in one]
                asked = set().union(*map(names_in, queries))
                assert len(asked) > 12
                wait_for(lambda: asked <= served_names(metrics()), "every query finds its series")
                page = metrics()
                assert "logos_delivery_bridge_ready 1.0" in page
                assert "logos_delivery_bridge_nats_connected 1.0" in page
                assert 'process_resident_memory_bytes{process="bridge"}' in page
                server.kill()
                wait_for(lambda: logos("bridge", "status", *where).returncode == 1, "the loss is reported")
                assert node.process.poll() is None, "the node goes on"
                assert node.end() == 0
                assert not node.alive()
                assert logos("bridge", "status", *where).returncode == 69
            finally:
                node.close()


def test_a_seed_that_others_can_read_is_refused() -> None:
    with short_directory() as directory, NatsServer() as server:
        _, seed = user(directory)
        seed.chmod(0o644)
        node = LogosUp(directory / "d", f"nats-url={server.url}", f"nats-nkey-seed={seed}")
        try:
            node.wait_said("can be read by other users: make it 0600")
            node.wait_said("the node is ready: apps connect to")
        finally:
            node.close()
