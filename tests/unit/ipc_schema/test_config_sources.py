"""TOML, environment and flags as layers, and options written back as flags and environment."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from ipc_schema.config.mapi import MAPI_SCHEMA
from ipc_schema.config.options import ConfigError, Origin, Schema, resolve
from ipc_schema.config.sources import (
    add_arguments,
    config_file_of,
    environment_layer,
    file_layer,
    flag_layer,
    parse_toml,
    to_environment,
    to_flags,
    variable_of,
)

TEXT = """\
# a node
[kernel]
tcp-port = 60001
"staticnode" = [
  "/ip4/127.0.0.1/tcp/1",
  "/ip4/127.0.0.1/tcp/2",
]

[mapi]
send-window = "90s"
"""


def parse_arguments(schema: Schema[Any], *arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_arguments(parser, schema)
    return vars(parser.parse_args(arguments))


def test_a_file_has_a_table_for_each_process() -> None:
    file = parse_toml(TEXT, "node.toml")
    kernel = resolve(KERNEL_SCHEMA, [file_layer(KERNEL_SCHEMA, file)])
    assert kernel.source_of("tcp-port") == (60001, Origin.FILE, "node.toml line 3")
    assert kernel.source_of("staticnode").detail == "node.toml line 4"
    assert kernel.value("staticnode") == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
    mapi = resolve(MAPI_SCHEMA, [file_layer(MAPI_SCHEMA, file)])
    assert mapi.source_of("send-window") == (90.0, Origin.FILE, "node.toml line 10")


def test_an_empty_file_sets_nothing() -> None:
    assert file_layer(KERNEL_SCHEMA, parse_toml("", "f")).values == {}


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("tcp-port = 1", "tcp-port", "under [kernel] and [mapi]"),
        ("[kernal]\n", "kernal", "does not belong"),
        ("kernel = 3", "kernel", "must be a table"),
        ("[kernel]\ntcp-port = \n", "node.toml", "line 2"),
        ("[kernel]\na = 1\na = 2", "node.toml", "not valid TOML"),
    ],
)
def test_bad_files_are_refused_by_key(text: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, "node.toml")
    assert caught.value.key == key
    assert message in str(caught.value)


def test_environment_variables() -> None:
    environ = {
        "LOGOS_KERNEL_TCP_PORT": "60002",
        "LOGOS_KERNEL_STATICNODE": "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2",
        "LOGOS_KERNEL_LOCAL_STORAGE_PATH": "/var/lib/logos",
        "LOGOS_KERNEL_NODEKEY": "",
        "LOGOS_KERNEL_CONFIG_FILE": "node.toml",
        "LOGOS_MAPI_SEND_WINDOW": "nonsense that is not the kernel's business",
        "PATH": "/bin",
    }
    resolved = resolve(KERNEL_SCHEMA, [environment_layer(KERNEL_SCHEMA, environ)])
    assert resolved.source_of("tcp-port") == (60002, Origin.ENVIRONMENT, "LOGOS_KERNEL_TCP_PORT")
    assert resolved.value("staticnode") == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
    assert resolved.value("data-dir") == "/var/lib/logos"
    assert resolved.value("nodekey") is None
    assert config_file_of(KERNEL_SCHEMA, {}, environ) == "node.toml"
    assert config_file_of(KERNEL_SCHEMA, {"config-file": "other"}, environ) == "other"
    assert config_file_of(KERNEL_SCHEMA, {}, {}) is None


def test_an_unknown_variable_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError) as caught:
        environment_layer(KERNEL_SCHEMA, {"LOGOS_KERNEL_TCP_PROT": "1"})
    assert caught.value.key == "LOGOS_KERNEL_TCP_PROT"
    assert "did you mean tcp-port?" in str(caught.value)


SERVICE_VARIABLES = {
    "LOGOS_KERNEL_SERVICE_HOST": "10.0.0.1",
    "LOGOS_KERNEL_SERVICE_PORT": "60000",
    "LOGOS_KERNEL_SERVICE_PORT_LIBP2P": "60000",
    "LOGOS_KERNEL_PORT": "tcp://10.0.0.1:60000",
    "LOGOS_KERNEL_PORT_60000_TCP": "tcp://10.0.0.1:60000",
    "LOGOS_KERNEL_PORT_60000_TCP_PROTO": "tcp",
    "LOGOS_KERNEL_PORT_60000_TCP_PORT": "60000",
    "LOGOS_KERNEL_PORT_60000_TCP_ADDR": "10.0.0.1",
    # of a service named logos-kernel-tcp
    "LOGOS_KERNEL_TCP_PORT": "tcp://10.0.0.2:60000",
    "LOGOS_KERNEL_TCP_SERVICE_HOST": "10.0.0.2",
}


def test_variables_of_kubernetes_are_ignored_with_one_line() -> None:
    config = load_kernel_config(environ={**SERVICE_VARIABLES, "LOGOS_KERNEL_XYZ": "1"})
    assert config.tcp_port == 60000
    (line,) = [line for line in config.warnings if "ignored" in line]
    assert all(name in line for name in (*SERVICE_VARIABLES, "LOGOS_KERNEL_XYZ"))


@pytest.mark.parametrize("schema", [KERNEL_SCHEMA, MAPI_SCHEMA], ids=["kernel", "mapi"])
def test_no_option_is_taken_for_a_variable_of_kubernetes(schema: Schema[Any]) -> None:
    environ = {variable_of(schema, option.name): "5" for option in schema}
    assert environment_layer(schema, environ).ignored == ()


def test_text_that_is_not_utf8_is_refused_by_its_option() -> None:
    for name in ("data-dir", "agent-string", "ipc-requests"):
        with pytest.raises(ConfigError, match=f"{name}: is not valid UTF-8") as caught:
            load_kernel_config(flags={name: b"/tmp/\xff".decode("utf-8", "surrogateescape")})
        str(caught.value).encode()
    with pytest.raises(ConfigError, match="staticnode: is not valid UTF-8"):
        load_kernel_config(flags={"staticnode": ["\udcff"]})


def test_flags() -> None:
    flags = parse_arguments(
        KERNEL_SCHEMA,
        "--tcp-port=0",
        "--staticnode",
        "/ip4/127.0.0.1/tcp/1",
        "--staticnode=/ip4/127.0.0.1/tcp/2",
        "--websocket-support",
        "--relay=false",
        "--local-storage-path",
        "/d",
        "--config-file=x.toml",
    )
    assert config_file_of(KERNEL_SCHEMA, flags, {}) == "x.toml"
    resolved = resolve(KERNEL_SCHEMA, [flag_layer(flags)])
    assert resolved.source_of("tcp-port") == (0, Origin.FLAG, "--tcp-port")
    assert resolved.value("staticnode") == ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2")
    assert resolved.value("websocket-support") is True
    assert resolved.value("relay") is False
    assert resolved.value("data-dir") == "/d"
    assert resolved.source_of("log-level").origin is Origin.DEFAULT


@pytest.mark.parametrize("schema", [KERNEL_SCHEMA, MAPI_SCHEMA], ids=["kernel", "mapi"])
def test_help_can_be_printed_and_names_every_option(schema: Schema[Any]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, schema)
    text = parser.format_help()
    assert all(f"--{option.name}" in text for option in schema)


def test_options_become_flags_and_variables_that_read_back() -> None:
    options: dict[str, object] = {
        "tcp-port": 0,
        "relay": True,
        "websocket-support": False,
        "max-msg-size": "150KiB",
        "staticnode": ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"],
        "agent-string": "me =, 100%",
        "nodekey": None,
        "lease-ttl": 2.5,
    }
    expected = load_kernel_config(flags=options)
    assert (
        load_kernel_config(flags=parse_arguments(KERNEL_SCHEMA, *to_flags(KERNEL_SCHEMA, options)))
        == expected
    )
    assert load_kernel_config(environ=to_environment(KERNEL_SCHEMA, options)) == expected
    assert variable_of(KERNEL_SCHEMA, "tcp-port") == "LOGOS_KERNEL_TCP_PORT"


def test_a_secret_goes_by_environment_only() -> None:
    with pytest.raises(ConfigError, match="nodekey"):
        to_flags(KERNEL_SCHEMA, {"nodekey": "11" * 32})
    assert to_environment(KERNEL_SCHEMA, {"nodekey": "11" * 32}) == {"LOGOS_KERNEL_NODEKEY": "11" * 32}


def test_a_list_item_with_a_comma_cannot_go_by_environment() -> None:
    with pytest.raises(ConfigError, match="comma"):
        to_environment(KERNEL_SCHEMA, {"staticnode": ["/dns4/a,b/tcp/1"]})
