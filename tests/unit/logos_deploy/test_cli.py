"""The command line: what it takes, what it refuses, with which exit code."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.paths import gateway_address_file, lock_path
from logos_client import exceptions
from logos_client.exceptions import from_ipc
from logos_deploy import cli
from logos_deploy.control import gateway_addresses
from logos_deploy.exits import COMMAND_EXITS, Exit
from logos_process.lock import FileLock
from tests.support.kernel_process import short_directory


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_and_version_name_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert re.search(rf"^    {name}\s", text, re.MULTILINE)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["up", "--presett=twn"], ["status", "extra"], ["send"], ["listen"]]
)
def test_a_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == Exit.USAGE
    assert "usage:" in capsys.readouterr().err


def test_overrides_may_stand_on_both_sides_of_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["up", "--check", "tcp-port=0", "--data-dir", "d", "max-apps=2"]) == Exit.OK
    assert cli.main(["up", "--check", "tcp-port=0", "--data-dir", "d", "max-app=2"]) == Exit.CONFIG
    assert "max-app: there is no such option, did you mean max-apps?" in capsys.readouterr().err


def test_checking_refuses_what_the_host_does_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["up", "--check", "ipc-group=no-such-group-here"]) == Exit.CONFIG
    assert "there is no group 'no-such-group-here'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert cli.main(["up", "--check", "store=true", "store-message-db-url=postgres://h/n"]) == Exit.CONFIG
    assert "pip install 'psycopg[binary]" in capsys.readouterr().err
    assert cli.main(["up", "--check", "nats-url=nats://127.0.0.1"]) == Exit.CONFIG
    assert "nats-url: the NATS client is missing: pip install 'nats-py[nkeys]==" in capsys.readouterr().err


def test_checking_refuses_a_limit_of_open_files_with_which_no_process_starts() -> None:
    few = ["prlimit", "--nofile=255:255", sys.executable, "-m", "logos_deploy", "up", "--check"]
    done = subprocess.run(few, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == Exit.CONFIG
    assert "RLIMIT_NOFILE: at most 255 open files, 256 are needed" in done.stderr


def test_checking_makes_nothing(tmp_path: Path) -> None:
    assert cli.main(["up", "--check"]) == Exit.OK
    assert list(tmp_path.iterdir()) == []


def test_a_refused_configuration_names_the_key_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node.toml").write_text("[kernel]\nmax-connections = 0\n")
    assert cli.main(["up", "--config-file", "node.toml"]) == Exit.CONFIG
    error = capsys.readouterr().err
    assert error.startswith("logos: max-connections: ")
    assert "node.toml line 2" in error
    assert cli.main(["up", "--config-file", "nowhere.toml"]) == Exit.CONFIG
    assert "config-file: cannot read" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_check_says_what_has_no_effect_and_how_an_option_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["up", "--check", "store-sync-range=2h", "rest-port=7"]) == Exit.OK
    assert capsys.readouterr().err.splitlines() == [
        "logos: store-sync-range has no effect: store-sync is off",
        "logos: rest-port has no effect: rest is off",
    ]
    with pytest.raises(SystemExit) as ended:
        cli.main(["up", "--tcp-port=5"])
    assert ended.value.code == Exit.USAGE
    assert "options of the node have no dashes: tcp-port=60001" in capsys.readouterr().err


def test_a_port_that_another_program_has_is_refused_by_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["up", f"tcp-port={port}"]) == Exit.FAILED  # it may be free at the next start
        assert f"logos: tcp-port: port {port} on 127.0.0.1 is in use" in capsys.readouterr().err


def test_a_directory_that_cannot_be_written_for_now_is_no_refused_configuration() -> None:
    up = [sys.executable, "-m", "logos_deploy", "up", "--write-only"]
    done = subprocess.run(["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *up], capture_output=True, text=True)
    assert done.returncode == Exit.FAILED, done.stderr
    assert done.stderr.startswith("logos: data-dir: cannot use "), done.stderr


def test_without_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--timeout", "0.1"]) == Exit.UNAVAILABLE
    assert "no node answers in data" in capsys.readouterr().out
    assert cli.main(["status", "--timeout", "0.1", "--json"]) == Exit.UNAVAILABLE
    assert json.loads(capsys.readouterr().out) == {"kernel": None, "mapi": None, "gateway": None}


def test_a_gateway_that_was_killed_leaves_a_file_and_is_not_found(tmp_path: Path) -> None:
    file = gateway_address_file(tmp_path)
    file.parent.mkdir()
    file.write_text('{"pid": 7, "rest": "http://127.0.0.1:8645"}')
    with FileLock.acquire(lock_path(file.parent), "the directory"):
        assert gateway_addresses(tmp_path) == (7, {"rest": "http://127.0.0.1:8645"})
    assert gateway_addresses(tmp_path) is None


NODE_COMMANDS = (
    *("status", "health", "down", "peers", "send /a/1/b/c x", "listen /a/1/b/c", "pending", "tail"),
    *("store", "store export f", "discovery", "config --running", "up", "up --check", "up --write-only"),
)


@pytest.mark.parametrize("command", NODE_COMMANDS)
@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_file_as_data_directory_is_refused_by_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, where: str
) -> None:
    (tmp_path / "file").touch()
    assert cli.main([*command.split(), "--data-dir", where]) == Exit.CONFIG
    assert capsys.readouterr().err.startswith("logos: data-dir: ")


# Imported first: another user may not be able to read this installation.
AS_ANOTHER_USER = """
import asyncio, os, sys
from logos_deploy import cli
os.setgroups([])
os.setresgid(65533, 65533, 65533)
os.setresuid(65533, 65533, 65533)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A node's directories, of this user, in a place that another user can reach."""
    with short_directory() as directory:
        directory.chmod(0o755)
        (directory / "theirs" / "run" / "kernel").mkdir(parents=True)
        (directory / "theirs").chmod(0o700)
        yield directory / "theirs"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("status", Exit.UNAVAILABLE, "is another user's"),
        ("send /a/1/b/c x", Exit.UNAVAILABLE, "is another user's"),
        ("down", Exit.FAILED, "is another user's"),
        ("up --check", Exit.CONFIG, "data-dir: "),
        ("up --write-only", Exit.CONFIG, "data-dir: "),
        ("up tcp-port=0", Exit.CONFIG, "data-dir: "),
    ],
)
def test_a_data_directory_of_another_user(theirs: Path, command: str, code: Exit, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AS_ANOTHER_USER, *command.split(), "--data-dir", str(theirs)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_listen_wants_at_least_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", "/a/1/b/c", "--count", "0"]) == Exit.USAGE
    assert "--count" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["send", "/a/1/b/c"], ["channel", "send", "room"]])
def test_a_payload_from_a_closed_standard_input_is_refused(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(command) == Exit.DATA
    assert "standard input is closed" in capsys.readouterr().err


def test_every_error_of_the_client_has_an_exit_code() -> None:
    made = {type(error): error for error in (from_ipc(IpcError(code, "text")) for code in ErrorCode)}
    assert cli.exit_of(made[exceptions.NotReadyError]) == Exit.UNAVAILABLE
    assert cli.exit_of(made[exceptions.BadRequestError]) == Exit.DATA
    assert cli.exit_of(made[exceptions.TooLargeError]) == Exit.DATA
    assert cli.exit_of(made[exceptions.BusyError]) == Exit.UNDECIDED
    assert cli.exit_of(made[exceptions.DeadlineError]) == Exit.UNDECIDED
    assert cli.exit_of(made[exceptions.PeerRestartedError]) == Exit.FAILED
    for error in made.values():
        assert isinstance(cli.exit_of(error), Exit)


def test_the_exit_codes_of_every_command_are_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, meanings in COMMAND_EXITS.items():
        with pytest.raises(SystemExit):
            cli.main([name, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for code, meaning in meanings.items():
            assert f"{int(code)}: {meaning}" in text


def test_the_configuration_of_a_node_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGOS_KERNEL_NODEKEY", "1" * 64)
    (tmp_path / "n.toml").write_text("[mapi]\nmax-apps = 7\n")
    words = ["config", "--preset", "logos.test", "--config-file", "n.toml", "tcp-port=0"]
    assert cli.main(words) == Exit.OK
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in capsys.readouterr().out.splitlines()}
    assert rows["tcp-port", "0"] == ["flag", "--tcp-port"]
    assert rows["preset", "logos.test"] == ["flag", "--preset"]
    assert rows["max-apps", "7"][0] == "file"
    assert rows["max-apps", "7"][-2:] == ["line", "2"]
    assert rows["data-dir", str(tmp_path / "data")] == ["derived", "from", "the", "kernel", "beside", "it"]
    assert cli.main([*words, "--json"]) == Exit.OK
    text = capsys.readouterr().out
    assert "1" * 64 not in text
    found = {row["name"]: row for row in json.loads(text)["kernel"]}
    assert found["nodekey"]["origin"] == "environment"
    assert found["cluster-id"]["origin"] == "preset"
    assert found["max-connections"] | {"doc": ""} == {
        "name": "max-connections",
        "type": "integer",
        "default": 150,
        "doc": "",
        "value": 150,
        "origin": "default",
        "detail": "",
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "n.toml"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["config", "max-app=1"], Exit.CONFIG),
        (["config", "--running", "tcp-port=1"], Exit.USAGE),
        (["pending", "--cancel", "00" * 16], Exit.USAGE),
        (["pending", "--name", "a", "--cancel", "xyz"], Exit.USAGE),
        (["pending"], Exit.UNAVAILABLE),
        (["health"], Exit.UNAVAILABLE),
        (["health", "--json"], Exit.UNAVAILABLE),
        (["down", "--json"], Exit.OK),
        (["tail", "--count", "0"], Exit.USAGE),
        (["peers", "--timeout", "0.1"], Exit.UNAVAILABLE),
        (["discovery", "--timeout", "0.1"], Exit.UNAVAILABLE),
        (["store", "--timeout", "0.1"], Exit.UNAVAILABLE),
        (["discovery", "--data-dir", "d", "list", "enrtree://k@d", "--timeout", "0.1"], Exit.UNAVAILABLE),
        (["status", "--watch", "0"], Exit.USAGE),
    ],
)
def test_exit_codes_where_no_node_runs(arguments: list[str], code: Exit) -> None:
    assert cli.main(arguments) == code


def test_the_doctor_finds_what_stands_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "tcp-port=0"]) == Exit.OK, capsys.readouterr().out
    assert "a node can run here" in capsys.readouterr().out
    (tmp_path / "data").write_text("not a directory")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["doctor", f"tcp-port={port}", "--json"]) == Exit.FAILED
    findings = json.loads(capsys.readouterr().out)["findings"]
    bad = {finding["subject"] for finding in findings if finding["level"] == "fail"}
    assert {"data directory", "ports"} <= bad
    assert cli.main(["doctor", "tcp-prt=1"]) == Exit.FAILED
    assert "did you mean tcp-port?" in capsys.readouterr().out
