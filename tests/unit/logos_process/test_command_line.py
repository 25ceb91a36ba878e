"""The command line of both processes: help that can be read, refusals, and the way to a configuration."""

from __future__ import annotations

import re

import pytest

from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA
from ipc_schema.config.options import ConfigError, Schema
from logos_process.command_line import CommandLine
from logos_process.exits import ExitCode

SCHEMAS = pytest.mark.parametrize("schema", [KERNEL_SCHEMA, MAPI_SCHEMA], ids=["kernel", "mapi"])


def command(schema: Schema = KERNEL_SCHEMA) -> CommandLine:
    return CommandLine("logos-x", "1.2.3", schema, "A process.")


def unread(path: str) -> str:
    raise AssertionError(f"nobody named {path}")


@SCHEMAS
def test_the_help_shows_every_option_once_under_a_title(schema: Schema) -> None:
    text = command(schema).format_help()
    assert "usage: logos-x [--config-file PATH] [--option value …]" in text
    for section in schema.sections:
        assert f"\n{section.title}:\n" in text
    for option in schema:
        assert len(re.findall(rf"^  .*--{option.name} ", text, re.MULTILINE)) == 1, option.name
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
def test_what_is_no_option_ends_with_one_line(
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
    flags, variables, file = command().sources(["--max-connections=40"], environ, texts.__getitem__)
    config = load_kernel_config(flags=flags, environ=variables, file=file)
    assert (config.tcp_port, config.resolved["websocket-port"], config.max_connections) == (1, 3, 40)


def test_without_a_file_nothing_is_read() -> None:
    assert command().sources([], {"PATH": "/bin"}, unread).file is None


@pytest.mark.parametrize("error", [OSError("no such file"), UnicodeDecodeError("utf-8", b"", 0, 1, "bad")])
def test_a_file_that_cannot_be_read_is_named(error: Exception) -> None:
    def read(_path: str) -> str:
        raise error

    with pytest.raises(ConfigError, match=r"config-file: cannot read gone\.toml"):
        command().sources(["--config-file=gone.toml"], {}, read)
