"""From an operator's words to the arguments of both processes; and what is refused, by name."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ipc_schema.config.kernel import KERNEL_SCHEMA
from ipc_schema.config.mapi import MAPI_SCHEMA
from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import parse_toml
from logos_deploy.node.plan import NodePlan, NodeRequest, plan_node

CWD = "/srv/node"


def plan(
    *overrides: str,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
    **request: object,
) -> NodePlan:
    """Plan a node; `file` is the text of its configuration file."""
    if file is not None:
        request["config_file"] = "node.toml"
    return plan_node(
        NodeRequest(overrides=overrides, **request),  # type: ignore[arg-type]
        environ or {},
        lambda path: parse_toml(file or "", path),
        CWD,
    )


def refusal(*overrides: str, **how: object) -> ConfigError:
    """The error of a plan that must be refused."""
    with pytest.raises(ConfigError) as caught:
        plan(*overrides, **how)  # type: ignore[arg-type]
    return caught.value


def test_without_anything_it_is_a_local_node_in_the_working_directory() -> None:
    node = plan()
    assert str(node.data_dir) == "/srv/node/data"
    assert node.kernel.listen_address == "127.0.0.1"
    assert node.arguments("kernel") == ("--data-dir=/srv/node/data", "--shard=all")
    assert node.mapi is not None
    assert node.mapi.kernel == node.kernel.endpoints
    assert node.mapi.data_dir == node.kernel.data_dir


def test_a_node_that_relays_carries_every_shard_of_its_network() -> None:
    assert plan("num-shards-in-network=3", "cluster-id=9").kernel.shards == (0, 1, 2)
    assert plan("num-shards-in-network=3", "cluster-id=9", kernel_only=True).kernel.shards == (0, 1, 2)
    assert plan("num-shards-in-network=3", "cluster-id=9", "shard=1").kernel.shards == (1,)
    assert plan("num-shards-in-network=3", "cluster-id=9", "shard=none").kernel.shards == ()
    assert plan("num-shards-in-network=0", "cluster-id=9").kernel.shards == ()
    assert plan(mode="edge").kernel.shards == ()
    derived = plan("cluster-id=9").derived
    assert derived["kernel", "shard"] == "a node that relays"
    assert ("kernel", "shard") not in plan("shard=0").derived


def test_directories_are_relative_to_the_file_that_names_them() -> None:
    """Not of the working directory that a process will have."""
    node = plan("ipc-dir=s", data_dir="d")
    for arguments in (node.arguments("kernel"), node.arguments("mapi")):
        assert {"--data-dir=/srv/node/d", "--ipc-dir=/srv/node/s"} <= set(arguments)
    node = plan(file='[kernel]\nipc-dir = "a"\n[mapi]\ndata-dir = "b"\nipc-dir = "../c"\n')
    assert "--ipc-dir=/srv/node/a" in node.arguments("kernel")
    assert {"--data-dir=/srv/node/b", "--ipc-dir=/srv/c"} <= set(node.arguments("mapi"))
    assert "--kernel-dir=/srv/node/a" in node.arguments("mapi")
    assert node.derived["mapi", "data-dir"].startswith("file ")


def test_an_override_goes_to_the_process_that_has_the_option() -> None:
    node = plan("tcp-port=0", "send-window=90s", "log-level=DEBUG", data_dir="d")
    assert "--tcp-port=0" in node.arguments("kernel")
    assert "--send-window=90s" in node.arguments("mapi")
    assert "--send-window=90s" not in node.arguments("kernel")
    assert "--log-level=DEBUG" in node.arguments("kernel")
    assert "--log-level=DEBUG" in node.arguments("mapi")


def test_a_prefix_names_one_process() -> None:
    node = plan("kernel.log-level=DEBUG", "mapi.ipc-control=tcp://127.0.0.1:7001")
    assert node.kernel.log_level == "DEBUG"
    assert node.mapi is not None
    assert node.mapi.log_level == "INFO"
    assert node.mapi.endpoints.control == "tcp://127.0.0.1:7001"


def test_lists_are_collected_and_anything_else_is_given_once() -> None:
    node = plan("staticnode=/ip4/127.0.0.1/tcp/1", "staticnode=/ip4/127.0.0.1/tcp/2")
    assert len(node.kernel.static_nodes) == 2
    error = refusal("tcp-port=1", "tcp-port=2")
    assert error.key == "tcp-port"
    assert "twice" in str(error)


def test_the_flags_are_options_like_any_other() -> None:
    node = plan(preset="logos.test", mode="core", data_dir="/var/lib/n")
    assert node.kernel.network.preset == "logos.test"
    assert node.mapi is not None
    assert node.mapi.preset == "logos.test"
    assert "--preset=logos.test" in node.arguments("kernel")
    assert "--mode=core" in node.arguments("mapi")
    assert refusal("preset=twn", preset="logos.test").key == "preset"


def test_the_arguments_lead_to_the_same_configuration_in_the_process() -> None:
    """What the processes make of their arguments, file and environment is what was checked here."""
    import argparse

    from ipc_schema.config.kernel import load_kernel_config
    from ipc_schema.config.mapi import load_mapi_config
    from ipc_schema.config.sources import add_arguments

    text = '[kernel]\ntcp-port = 61000\npreset = "logos.dev"\n[mapi]\nmax-apps = 7\n'
    environ = {"LOGOS_KERNEL_MAX_CONNECTIONS": "20", "LOGOS_MAPI_SEND_WINDOW": "30s"}
    node = plan("ipc-max-in-flight=9", "staticnode=/ip4/127.0.0.1/tcp/1", file=text, environ=environ)
    file = parse_toml(text, "/srv/node/node.toml")

    def parsed(schema: object, arguments: tuple[str, ...]) -> dict[str, object]:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        add_arguments(parser, schema)  # type: ignore[arg-type]
        return vars(parser.parse_args(list(arguments)))

    kernel = load_kernel_config(
        flags=parsed(KERNEL_SCHEMA, node.arguments("kernel")), environ=environ, file=file
    )
    mapi = load_mapi_config(flags=parsed(MAPI_SCHEMA, node.arguments("mapi")), environ=environ, file=file)
    assert kernel == node.kernel
    assert mapi == node.mapi
    assert (kernel.tcp_port, kernel.peers.max_connections, kernel.max_in_flight) == (61000, 20, 9)
    assert (mapi.apps.max_apps, mapi.messages.send_window, mapi.preset) == (7, 30.0, "logos.dev")


def test_flag_beats_environment_beats_file() -> None:
    text = "[kernel]\ntcp-port = 1\nmax-connections = 21\nwebsocket-port = 1\n"
    environ = {"LOGOS_KERNEL_TCP_PORT": "2", "LOGOS_KERNEL_MAX_CONNECTIONS": "22"}
    node = plan("tcp-port=3", file=text, environ=environ)
    assert (node.kernel.tcp_port, node.kernel.peers.max_connections) == (3, 22)
    assert node.kernel.resolved.value("websocket-port") == 1


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (("tcp-prt=1",), "tcp-prt", "did you mean tcp-port?"),
        (("send-windw=1s",), "send-windw", "did you mean send-window?"),
        (("tcp-port=seven",), "tcp-port", "not a whole number"),
        (("tcp-port=70000",), "tcp-port", "not in 0..65535"),
        (("tcp-port",), "tcp-port", "is not key=value"),
        (("ipc-control=tcp://127.0.0.1:1",), "ipc-control", "kernel.ipc-control or mapi.ipc-control"),
        (("nodekey=" + "1" * 64,), "nodekey", "LOGOS_KERNEL_NODEKEY"),
        (("mode=fringe",), "mode", "core"),
        (("relay=false",), "relay", "--kernel-only"),
        (("mode=edge", "relay=true"), "relay", "must be off"),
        (("kernel.metrics-server=true",), "metrics-server", "is now an option of the gateway"),
        (("rest=true", "rest-address=0.0.0.0"), "rest-address", "set rest-token-file"),
        (("config-file=x",), "config-file", "--config-file"),
        (("mapi.cluster-id=3",), "cluster-id", "contradicts the kernel"),
        (("kernel-dir=/elsewhere",), "kernel-dir", "the kernel of this node"),
        (("mapi.tcp-port=1",), "tcp-port", "no such option in [mapi]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides: tuple[str, ...], key: str, words: str) -> None:
    error = refusal(*overrides)
    assert error.key == key
    assert words in str(error)


def test_a_secret_is_not_shown_in_its_refusal() -> None:
    assert "1" * 64 not in str(refusal("nodekey=" + "1" * 64))


def test_the_file_and_the_environment_are_checked_too() -> None:
    assert refusal(file="[kernel]\ntcp-prt = 1\n").key == "tcp-prt"
    assert "line 2" in str(refusal(file="[kernel]\ntcp-port = 99999\n"))
    assert refusal(file="[mapi]\nmax-app = 1\n").key == "max-app"
    assert refusal(file="tcp-port = 1\n").key == "tcp-port"
    assert refusal(environ={"LOGOS_MAPI_MAX_APP": "1"}).key == "LOGOS_MAPI_MAX_APP"


def test_clashes_of_ports_between_the_two_processes_are_refused() -> None:
    error = refusal("tcp-port=7001", "ipc-apps=tcp://127.0.0.1:7001")
    assert error.key == "mapi.ipc-apps"
    assert "tcp-port" in str(error)
    error = refusal("websocket-support=true", "websocket-port=7001", "ipc-apps=tcp://127.0.0.1:7001")
    assert "websocket-port" in str(error)


def test_the_kernel_alone_has_no_mode_and_no_options_of_mapi() -> None:
    node = plan("relay=false", kernel_only=True)
    assert node.mapi is None
    assert node.tables == ("kernel",)
    assert refusal("max-apps=1", kernel_only=True).key == "max-apps"
    assert refusal(mode="core", kernel_only=True).key == "mode"
    assert refusal("mapi.log-level=DEBUG", kernel_only=True).key == "mapi.log-level"
    # a file that both use is not refused
    assert plan(kernel_only=True, file="[mapi]\nmode = 'core'\n").mapi is None


def test_mapi_finds_a_kernel_with_sockets_of_its_own() -> None:
    node = plan(file='[kernel]\nipc-requests = "tcp://127.0.0.1:7001"\nipc-dir = "/run/n"\n')
    assert node.mapi is not None
    assert node.mapi.kernel.requests == "tcp://127.0.0.1:7001"
    assert node.mapi.kernel.control == "ipc:///run/n/kernel/control"
    assert node.mapi.endpoints.apps == "ipc:///run/n/mapi/apps"


def test_a_data_directory_that_is_too_deep_for_sockets_is_refused() -> None:
    error = refusal(data_dir="/x/" + "d" * 100)
    assert "ipc-dir" in str(error)
    assert plan("ipc-dir=/run/n", data_dir="/x/" + "d" * 100).kernel.ipc_dir == "/run/n"


def test_the_ports_to_try_are_those_that_are_fixed() -> None:
    node = plan("tcp-port=0", "ipc-apps=tcp://127.0.0.1:7001")
    assert [(use.key, use.port) for use in node.ports] == [("mapi.ipc-apps", 7001)]


def test_an_edge_node_has_a_kernel_without_relay() -> None:
    for node in (plan(mode="edge"), plan(file='[mapi]\nmode = "edge"\n')):
        assert not node.kernel.peers.relay
        assert "--relay=false" in node.arguments("kernel")
        assert node.derived["kernel", "relay"] == "mode edge"
    assert plan().kernel.peers.relay


def test_a_gateway_is_planned_when_something_is_served() -> None:
    assert plan().gateway is None
    node = plan("tcp-port=0", "metrics-server=true", "rest=true", "ports-shift=10", "ipc-dir=/i")
    assert node.tables == ("kernel", "mapi", "gateway")
    assert [(use.key, use.port) for use in node.ports] == [
        ("rest-port", 8655),
        ("metrics-server-port", 8018),
    ]
    assert "--kernel-dir=/i" in node.arguments("gateway")
    assert "--mapi-dir=/i" in node.arguments("gateway")
    assert node.derived["gateway", "kernel-dir"] == "the processes beside it"
    error = refusal("metrics-server=true", "metrics-server-port=60000", "tcp-port=60000")
    assert error.key == "metrics-server-port"


def test_a_gateway_beside_a_kernel_alone() -> None:
    node = plan("dashboard=true", kernel_only=True)
    assert node.tables == ("kernel", "gateway")
    assert node.gateway is not None
    assert node.gateway.mapi is None
    assert "--mapi=false" in node.arguments("gateway")


def test_options_of_a_process_that_is_not_started_are_warned_of() -> None:
    node = plan("rest-port=7", "nats-prefix=x", "store-sync-range=2h", file="[bridge]\nbridge-in = false\n")
    assert sorted(node.idle) == [
        "bridge-in has no effect: nats-url is not set",
        "nats-prefix has no effect: nats-url is not set",
        "rest-port has no effect: rest is off",
    ]
    assert node.warnings == ("store-sync-range has no effect: store-sync is off", *node.idle)
    assert plan("rest-port=7", "rest=true", "metrics-server-port=8").warnings == (
        "metrics-server-port has no effect: metrics-server is off",
    )


def test_a_bridge_is_planned_when_there_is_a_nats_server() -> None:
    assert plan().bridge is None
    node = plan(
        "tcp-port=0", "nats-url=nats://127.0.0.1", "ipc-dir=/i", file="[bridge]\nbridge-shard = [2]\n"
    )
    assert node.tables == ("kernel", "mapi", "bridge")
    assert node.bridge is not None
    assert node.bridge.outward.bridge_shard == (2,)
    assert "--kernel-dir=/i" in node.arguments("bridge")
    assert "--mapi-dir=/i" in node.arguments("bridge")
    alone = plan("nats-url=nats://127.0.0.1", kernel_only=True)
    assert alone.bridge is not None
    assert not alone.bridge.inward.bridge_in


def test_an_edge_node_has_nothing_to_publish() -> None:
    assert refusal("nats-url=nats://127.0.0.1", mode="edge").key == "bridge-out"
    node = plan("nats-url=nats://127.0.0.1", "bridge-out=false", mode="edge")
    assert node.bridge is not None
    assert node.bridge.inward.bridge_in
