"""The command line of both processes: help that can be read, refusals, and the way to a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA
from ipc_schema.config.options import ConfigError, Schema
from ipc_schema.config.sources import TomlFile, parse_toml
from logos_process.command_line import CommandLine
from logos_process.config_file import read_toml
from logos_process.exits import ExitCode

SCHEMAS = pytest.mark.parametrize("schema", [KERNEL_SCHEMA, MAPI_SCHEMA], ids=["kernel", "mapi"])


def command(schema: Schema[Any] = KERNEL_SCHEMA) -> CommandLine:
    return CommandLine("logos-x", "1.2.3", schema, "A process.")


def unread(path: str) -> TomlFile:
    raise AssertionError(f"unexpected path {path}")


@SCHEMAS
def test_the_help_shows_every_option_once_under_a_title(schema: Schema[Any]) -> None:
    text = command(schema).format_help()
    assert "usage: logos-x [--config-file PATH] [--option value …]" in text
    for title, _ in schema.sections:
        assert f"\n{title}:\n" in text
    for option in schema:
        assert len(re.findall(rf"^  .*--{option.name}[ ,]", text, re.MULTILINE)) == 1, option.name
    assert max(map(len, text.splitlines())) <= 100
    assert "(default: True" not in text
    assert "(default: None" not in text
    assert not re.search(r"-$", text, re.MULTILINE)


def test_the_help_says_what_can_be_given() -> None:
    text = " ".join(command(MAPI_SCHEMA).format_help().split())
    assert "--mode core|edge" in text
    assert "--reliability [true|false]" in text
    text = " ".join(command().format_help().split())
    assert "--staticnode MULTIADDR peer to stay connected to (may be given several times)" in text
    assert "better in the environment, as LOGOS_KERNEL_NODEKEY" in text
    assert "LOGOS_KERNEL_PRESET" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tcp-prot=1"], "--tcp-prot=1: there is no such option, did you mean tcp-port?"),
        (["--tcp-po", "1"], "--tcp-po: there is no such option"),
        (["serve"], "serve: there is no such option"),
        (["--tcp-port"], "expected one argument"),
    ],
)
def test_an_unknown_option_ends_with_one_line(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command().sources(arguments, {}, unread)
    assert ended.value.code == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command().sources(["--version"], {}, unread)
    assert (ended.value.code, capsys.readouterr().out) == (0, "logos-x 1.2.3\n")


def test_all_sources_meet() -> None:
    texts = {"node.toml": "[kernel]\ntcp-port = 1\nwebsocket-port = 2\nmax-connections = 30"}
    environ = {"LOGOS_KERNEL_CONFIG_FILE": "node.toml", "LOGOS_KERNEL_WEBSOCKET_PORT": "3"}

    def read(path: str) -> TomlFile:
        return parse_toml(texts[path], path)

    flags, variables, file = command().sources(["--max-connections=40"], environ, read)
    config = load_kernel_config(flags=flags, environ=variables, file=file)
    assert (config.tcp_port, config.peers.max_connections) == (1, 40)
    assert config.resolved.value("websocket-port") == 3


def test_without_a_file_nothing_is_read() -> None:
    assert command().sources([], {"PATH": "/bin"}, unread).file is None


@pytest.mark.parametrize("error", [OSError("no such file"), UnicodeDecodeError("utf-8", b"", 0, 1, "bad")])
def test_a_file_that_cannot_be_read_is_named(error: Exception) -> None:
    def read(_path: str) -> str:
        raise error

    with pytest.raises(ConfigError, match=r"config-file: cannot read gone\.toml"):
        read_toml("gone.toml", read)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_bytes(b"\xef\xbb\xbf[kernel]\r\ntcp-port = 1\r\n")
    assert read_toml(str(tmp_path / "node.toml")).tables == {"kernel": {"tcp-port": 1}}


@pytest.mark.parametrize(
    ("argument", "variable"),
    [
        (f"--nodekey={'1' * 64}", "LOGOS_KERNEL_NODEKEY"),
        ("--store-message-db-url=postgres://u:secret@h/n", "LOGOS_KERNEL_STORE_MESSAGE_DB_URL"),
        ("--store-message-db-url=postgres://h/n?password=secret", "LOGOS_KERNEL_STORE_MESSAGE_DB_URL"),
    ],
)
def test_a_secret_is_refused_on_the_command_line(argument: str, variable: str) -> None:
    with pytest.raises(ConfigError, match=f"every user of the host .* set {variable}") as caught:
        command().sources([argument], {}, unread)
    assert argument.partition("=")[2] not in str(caught.value)
    command().sources([], {variable: argument.partition("=")[2]}, unread)


def test_a_url_without_a_password_is_not_secret() -> None:
    flags = command().sources(["--store-message-db-url=postgres://u@h/n"], {}, unread).flags
    assert flags == {"store-message-db-url": "postgres://u@h/n"}
