"""What `logos doctor` looks at, one thing at a time."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import trustme

from ipc_schema.config.options import PortUse
from logos_deploy.node import checkup
from logos_deploy.node.checkup import Finding, Level


@pytest.mark.parametrize(
    ("version", "bounds", "good"),
    [
        ("27.3.0", ">=27.0,<28", True),
        ("28", ">=27.0,<28", False),
        ("0.8.1", "==0.8.1", True),
        ("0.8.10", "==0.8.1", False),
        ("1.1", ">=1.1.0", True),
        ("7.0rc1", ">=7", True),
        ("3", "", True),
    ],
)
def test_bounds_of_versions(version: str, bounds: str, good: bool) -> None:
    assert checkup.allowed(version, bounds) is good


def test_packages_that_are_missing_or_of_a_wrong_version() -> None:
    versions = {"pyzmq": "26.0", "msgpack": "1.1"}

    def installed(name: str) -> str:
        try:
            return versions[name]
        except KeyError:
            raise PackageNotFoundError(name) from None

    needs = [
        "pyzmq<28,>=27.0",
        "msgpack>=1.1",
        "libp2p==0.8.1",
        "psycopg[binary]>=3.2; extra == 'postgres'",
    ]
    wrong, missing, good = checkup.check_packages(needs, installed)
    assert (wrong.level, missing.level, good.level) == (Level.FAIL, Level.FAIL, Level.OK)
    assert "pyzmq 26.0" in wrong.text
    assert missing.text == "libp2p is not installed"
    assert missing.advice == "pip install --upgrade logos-mapi"
    assert good.text == "msgpack 1.1"


def test_a_certificate_that_ends_soon(tmp_path: Path) -> None:
    path, now, day = tmp_path / "fullchain.pem", 1_800_000_000, 86400
    for left, level, text in (
        (15 * day, Level.OK, "expires on 2027-01-30, in 15 days"),
        (14 * day - 1, Level.WARN, "expires on 2027-01-29, in 13 days"),
        (day, Level.WARN, "expires on 2027-01-16, in 1 day"),
        (0, Level.WARN, "expired on 2027-01-15: browsers do not connect"),
    ):
        end = datetime.fromtimestamp(now + left, UTC)
        chain = trustme.CA().issue_cert("node.example", not_after=end).cert_chain_pems
        path.write_bytes(b"".join(one.bytes() for one in chain))
        finding = checkup.check_certificate(path, now)
        assert (finding.level, finding.text) == (level, f"{path}: {text}")
        assert bool(finding.advice) is (level is Level.WARN)
    path.write_text("no PEM")
    assert checkup.check_certificate(path).level is Level.FAIL
    assert checkup.check_certificate(tmp_path / "none.pem").level is Level.FAIL


def test_directories(tmp_path: Path) -> None:
    assert checkup.check_directory("d", tmp_path / "new" / "deep").level is Level.OK
    assert not (tmp_path / "new").exists()
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o700)
    assert checkup.check_directory("d", ours).level is Level.OK
    ours.chmod(0o777)
    open_to_all = checkup.check_directory("d", ours)
    assert open_to_all.level is Level.WARN
    assert open_to_all.advice == f"chmod go-w {ours}"
    (tmp_path / "file").touch()
    assert checkup.check_directory("d", tmp_path / "file").level is Level.FAIL
    assert checkup.check_directory("d", tmp_path / "file" / "below").level is Level.FAIL
    assert checkup.check_disk(ours / "not" / "yet").subject == "disk"


def test_sockets_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(holder: int | None, answers: bool) -> Finding:
        return checkup.check_sockets("kernel", tmp_path, holder, answers)

    assert look(None, False).text == "not running"
    with socket.socket(socket.AF_UNIX) as left:
        monkeypatch.chdir(tmp_path)  # its whole path may be too long for a socket
        left.bind("control")
    assert look(None, False) == Finding(
        Level.OK, "kernel", "not running; left over from a killed process: control"
    )
    assert look(7, True).level is Level.OK
    assert look(7, False).level is Level.FAIL
    assert checkup.check_sockets("kernel", tmp_path / "none", None, False).level is Level.OK


def test_ports() -> None:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for taken in (tcp, udp):
            taken.bind(("127.0.0.1", 0))
        tcp.listen()
        uses = [PortUse("tcp-port", "127.0.0.1", tcp.getsockname()[1])]
        (finding,) = checkup.check_ports(uses)
        assert finding.level is Level.FAIL
        assert finding.text.startswith("tcp-port: port ")
        udp_uses = [PortUse("discv5-udp-port", "127.0.0.1", udp.getsockname()[1])]
        (finding,) = checkup.check_ports(udp_uses, udp=True)
        assert finding.level is Level.FAIL
    (finding,) = checkup.check_ports(uses)
    assert finding.level is Level.OK
    (finding,) = checkup.check_ports(udp_uses, udp=True)
    assert finding.level is Level.OK


def test_limits_and_versions() -> None:
    assert checkup.check_descriptors(8192, hard=255).level is Level.FAIL, "no process would start"
    assert checkup.check_descriptors(8192, hard=256).level is Level.WARN
    assert checkup.check_descriptors(8192, hard=8192).level is Level.OK
    assert checkup.check_python((3, 10, 9)).level is Level.FAIL
    assert checkup.check_python((3, 12, 0)).level is Level.OK


def test_the_clock(tmp_path: Path) -> None:
    (tmp_path / "mapi.sqlite3").touch()
    written = (tmp_path / "mapi.sqlite3").stat().st_mtime
    assert checkup.check_clock(tmp_path, written, synchronised=True).level is Level.OK
    assert checkup.check_clock(tmp_path, written, synchronised=False).level is Level.WARN
    back = checkup.check_clock(tmp_path, written - 3600, synchronised=True)
    assert back.level is Level.FAIL
    assert "was set back" in back.text
    assert checkup.check_clock(tmp_path / "none").subject == "clock"
