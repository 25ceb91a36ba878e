"""The systemd units: sound, and their processes say what systemd waits for."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ipc_schema.config.kernel import KERNEL_SCHEMA
from logos_deploy import cli
from logos_process.command_line import CommandLine
from logos_process.exits import ExitCode
from tests.integration.logos_node import LOGOS, clean_environment, short_directory

pytestmark = pytest.mark.integration

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / name)
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this host")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    """With the commands where this environment has them: it wants them to exist."""
    text = (UNITS / name).read_text().replace("/opt/logos/bin/", f"{Path(sys.executable).parent}/")
    (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this host")
@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_the_hardening_good(name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=30", str(UNITS / name)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_the_commands_are_ones_that_exist() -> None:
    kernel = shlex.split(unit("logos-kernel.service")["Service"]["ExecStart"])
    assert Path(kernel[0]).name == "logos-kernel"
    CommandLine("logos-kernel", "0", KERNEL_SCHEMA, "").parse_args(kernel[1:])
    node = shlex.split(unit("logos-node.service")["Service"]["ExecStart"])
    assert Path(node[0]).name == "logos"
    cli.build_parser().parse_args(node[1:])
    for name in NAMES:
        assert int(unit(name)["Service"]["RestartPreventExitStatus"]) == ExitCode.CONFIG


def test_the_account_and_the_directories_are_made_for_the_units() -> None:
    users = (UNITS / "logos.sysusers.conf").read_text()
    places = (UNITS / "logos.tmpfiles.conf").read_text()
    for name in NAMES:
        service = unit(name)["Service"]
        assert re.search(rf"^u {service['User']} ", users, re.MULTILINE)
        for path in re.findall(r"=(/etc\S+|/var\S+)", service["ExecStart"]):
            assert re.search(rf"^[df] {path} ", places, re.MULTILINE)


@contextmanager
def notified(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Start a command as systemd would."""
    with short_directory() as directory, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notify:
        notify.bind(str(directory / "notify"))
        notify.settimeout(60)
        environ = {
            **clean_environment(),
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": "1000000",
        }
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, f"--data-dir={directory / 'n'}"], env=environ, stdout=log, stderr=log
            )
        try:
            yield process, notify
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


KERNEL = (sys.executable, "-m", "kernel_proc", "--tcp-port=0", "--listen-address=127.0.0.1")
NODE = (*LOGOS, "up", "tcp-port=0", "listen-address=127.0.0.1")


@pytest.mark.parametrize("command", [KERNEL, NODE], ids=["kernel", "node"])
def test_a_service_says_that_it_is_ready_alive_and_stopping(command: tuple[str, ...]) -> None:
    with notified(*command) as (process, notify):
        said: list[bytes] = []
        while said.count(b"WATCHDOG=1") < 3 or not any(one.startswith(b"READY=1") for one in said):
            said.append(notify.recv(512))
        os.kill(process.pid, signal.SIGTERM)
        while said[-1] != b"STOPPING=1":
            said.append(notify.recv(512))
        assert process.wait(30) == 0
        assert sum(one.startswith(b"READY=1") for one in said) == 1, "the node's processes are silent"
