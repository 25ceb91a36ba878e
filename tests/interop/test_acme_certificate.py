"""The certificate service of the containers: what Certbot gets from an authority, Pebble, a kernel serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from tests.support.kernel_process import KernelProcess, eventually, short_directory
from tests.support.nats_server import free_ports
from tests.unit.logos_deploy.container_files import CONTAINER, compose

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        os.environ.get("CI") != "true" and not shutil.which("go"),
        reason="Pebble cannot be made: go is not installed",
    ),
]

SOURCE = Path(__file__).parent / "acme"
UV = Path(sys.executable).with_name("uv")
BUILD_SECONDS = 200


def run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of Pebble, its DNS server and Certbot."""
    venv = tmp_path_factory.mktemp("acme") / "venv"
    run(UV, "venv", "--quiet", "--python", sys.executable, venv)
    lock = SOURCE / "certbot.lock"
    run(UV, "pip", "install", "--quiet", "--python", venv / "bin/python", "--require-hashes", "-r", lock)
    run("go", "build", "-trimpath", "-o", f"{venv / 'bin'}/", "tool", cwd=SOURCE)
    return venv / "bin"


class Authority:
    """Pebble, in whose DNS every name is this host. Certbot is asked at `http_port`."""

    def __init__(self, programs: Path, directory: Path) -> None:
        owner = trustme.CA()
        self.trusted = directory / "owner.pem"
        owner.cert_pem.write_to_path(self.trusted)
        own = owner.issue_cert("localhost", "127.0.0.1")
        own.private_key_pem.write_to_path(directory / "key.pem")
        own.cert_chain_pems[0].write_to_path(directory / "cert.pem")
        port, self._management, self.http_port, dns = free_ports(4)
        self.url = f"https://localhost:{port}/dir"
        config = {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(directory / "cert.pem"),
            "privateKey": str(directory / "key.pem"),
            "httpPort": self.http_port,
            "tlsPort": 1,
        }
        (directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        others = ("-http01=", "-https01=", "-tlsalpn01=", "-doh=", "-management=127.0.0.1:0", "-defaultIPv6=")
        names = f"-dns01=127.0.0.1:{dns}"
        pebble = (f"-config={directory / 'pebble.json'}", f"-dnsserver=127.0.0.1:{dns}")
        # Without waits, and without the refusals that it makes by chance.
        environ = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        self._log = (directory / "authority.log").open("wb")
        self._processes = [
            subprocess.Popen([*map(str, command)], stdout=self._log, stderr=subprocess.STDOUT, env=environ)
            for command in (
                (programs / "pebble-challtestsrv", names, *others),
                (programs / "pebble", *pebble),
            )
        ]

    def root(self) -> str:
        """The certificate with which it signs, in PEM; empty while it does not answer."""
        context = ssl.create_default_context(cafile=self.trusted)
        try:
            with urllib.request.urlopen(
                f"https://localhost:{self._management}/roots/0", context=context, timeout=10
            ) as answer:
                text: str = answer.read().decode()
        except OSError:
            return ""
        return text

    def __enter__(self) -> Authority:
        try:
            eventually(self.root)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


class CertificateService:
    """`certificates.sh` as its image runs it, with the environment that the compose file gives it."""

    def __init__(self, programs: Path, directory: Path, authority: Authority, domain: str, url: str) -> None:
        service = compose("wss", DOMAIN=domain, ACME_SERVER=url)["services"]["certificates"]
        self.volume = directory / "certificates"
        self.volume.mkdir(mode=0o700, exist_ok=True)
        self._check = [
            word.replace("/certificates", str(self.volume)) for word in service["healthcheck"]["test"]
        ]
        self._log = directory / "service.log"
        environ = {
            **{name: str(value or "") for name, value in service["environment"].items()},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HTTP_PORT": str(authority.http_port),
            "CERTIFICATES": str(self.volume),
            "REQUESTS_CA_BUNDLE": str(authority.trusted),
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [CONTAINER / "certificates.sh"], stdout=log, stderr=log, env=environ, start_new_session=True
            )

    def healthy(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        assert self._check[0] == "CMD"
        return subprocess.run(self._check[1:], check=False).returncode == 0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def __enter__(self) -> CertificateService:
        return self

    def __exit__(self, *_: object) -> None:
        # With Certbot and the sleep, which it leaves to the end of the container.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def options(environment: Mapping[str, object], volume: Path) -> list[str]:
    """What the compose file tells the node of secure WebSocket, on another port and with another volume."""
    chosen = [
        (name.removeprefix("LOGOS_KERNEL_").lower().replace("_", "-"), str(value))
        for name, value in environment.items()
        if "WEBSOCKET" in name or "DOMAIN" in name
    ]
    options = [
        f"--{name}={value.replace('/certificates', str(volume))}"
        for name, value in chosen
        if name != "websocket-port"
    ]
    return [*options, "--websocket-port=0", "--cluster-id=46", "--shard=0", "--discv5-discovery=false"]


def served(port: int, context: ssl.SSLContext, name: str) -> str:
    """The serial number of the certificate there; empty if it is none for `name` that `context` trusts."""
    with socket.create_connection(("127.0.0.1", port), 10) as tcp:
        try:
            with context.wrap_socket(tcp, server_hostname=name) as tls:
                shown = tls.getpeercert()
        except ssl.SSLCertVerificationError:
            return ""
    assert shown is not None
    return str(shown["serialNumber"])


def test_a_kernel_serves_the_certificate_and_those_that_follow(programs: Path, directory: Path) -> None:
    """The first is there before the node starts; that of another name or authority is taken while it runs."""
    first, second = "node.example.org", "other.example.org"
    with ExitStack() as ends:
        authority = ends.enter_context(Authority(programs, directory))
        context = ssl.create_default_context(cadata=authority.root())

        def service(domain: str, url: str = authority.url) -> CertificateService:
            return ends.enter_context(CertificateService(programs, directory, authority, domain, url))

        running = service(first)
        assert not running.healthy()
        eventually(running.healthy, 60)
        assert (running.volume / "live/node/privkey.pem").stat().st_mode & 0o777 == 0o600
        environment = compose("wss", DOMAIN=first)["services"]["node"]["environment"]
        kernel = ends.enter_context(KernelProcess(directory / "k", *options(environment, running.volume)))
        announced: list[str] = kernel.info("MyMultiaddresses")["MyMultiaddresses"]
        port = int(next(address for address in announced if "/wss" in address).split("/")[4])
        assert served(port, context, first)
        assert running.stop() == 0
        running = service(second)
        before = eventually(lambda: served(port, context, second), 60)
        assert running.stop() == 0
        service(second, authority.url.replace("localhost", "127.0.0.1"))
        eventually(lambda: served(port, context, second) not in ("", before), 60)
