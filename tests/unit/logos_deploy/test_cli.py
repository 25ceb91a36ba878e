"""The command line: what it takes, what it refuses, with which exit code."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from logos_client import exceptions
from logos_deploy import cli
from logos_deploy.commands import up
from logos_deploy.exits import Exit


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_and_version_name_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for command in ("up", "status", "send", "listen", "demo"):
        assert f"    {command} " in text
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


def test_a_port_that_another_program_has_is_refused_by_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["up", f"tcp-port={port}"]) == Exit.CONFIG
        assert f"logos: tcp-port: port {port} on 127.0.0.1 is in use" in capsys.readouterr().err


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(up, "missing_extras", lambda **_: ["kernel", "deploy"])
    for command in ("up", "demo"):
        assert cli.main([command]) == Exit.UNAVAILABLE
        assert "pip install 'logos-mapi[kernel,deploy]'" in capsys.readouterr().err


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--timeout", "0.1"]) == Exit.UNAVAILABLE
    assert "no node answers in data" in capsys.readouterr().out
    assert cli.main(["status", "--timeout", "0.1", "--json"]) == Exit.UNAVAILABLE
    assert capsys.readouterr().out.split() == ["{", '"kernel":', "null,", '"mapi":', "null", "}"]


def test_listen_wants_at_least_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["listen", "/a/1/b/c", "--count", "0"]) == Exit.USAGE
    assert "--count" in capsys.readouterr().err


def test_every_error_of_the_client_has_an_exit_code() -> None:
    made = {
        leaf: leaf(leaf.CODES[0], "text")
        for leaf in vars(exceptions).values()
        if isinstance(leaf, type) and issubclass(leaf, exceptions.LogosError) and leaf.CODES
    }
    assert cli.exit_of(made[exceptions.NotReadyError]) == Exit.UNAVAILABLE
    assert cli.exit_of(made[exceptions.BadRequestError]) == Exit.DATA
    assert cli.exit_of(made[exceptions.TooLargeError]) == Exit.DATA
    assert cli.exit_of(made[exceptions.BusyError]) == Exit.UNDECIDED
    assert cli.exit_of(made[exceptions.DeadlineError]) == Exit.UNDECIDED
    assert cli.exit_of(made[exceptions.PeerRestartedError]) == Exit.FAILED
    for error in made.values():
        assert isinstance(cli.exit_of(error), Exit)
