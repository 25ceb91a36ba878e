"""A configuration of the reference's node: each of its options has a fate here, from each of its sources."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ipc_schema.config.options import ConfigError
from ipc_schema.config.sources import parse_toml
from ipc_schema.topics import autoshard
from logos_deploy.node.plan import NodePlan, NodeRequest, plan_node
from logos_deploy.node.processes import SCHEMAS
from logos_deploy.node.reference import REFERENCE_LISTS, REFERENCE_OPTIONS, Fate
from logos_deploy.node.takeover import PREFIXES, TranslatedSources, split_words, take_over

# Every option of the reference's command line (`tools/confutils/cli_args.nim` and its discv5 and RLN parts).
ALL_OPTIONS = (  # noqa: SIM905 - a line each would be a hundred lines
    "config-file log-level log-format agent-string nodekey local-storage-path entry-layer mode preset "
    "cluster-id num-shards-in-network shard content-topic max-msg-size protected-shard entry-node "
    "staticnode listen-address tcp-port ports-shift nat ext-multiaddr ext-multiaddr-only "
    "dns4-domain-name dns-addrs-name-server websocket-support websocket-port websocket-secure-support "
    "websocket-secure-key-path websocket-secure-cert-path quic-support quic-port max-connections "
    "relay-service-ratio ip-colocation-limit peer-store-capacity peer-persistence relay-client "
    "relay-shard-manager keep-alive relay relay-peer-exchange store storenode "
    "store-message-retention-policy store-message-db-url store-message-db-vacuum "
    "store-message-db-migration store-max-num-db-connections store-resume store-sync "
    "store-sync-interval store-sync-range store-sync-relay-jitter filter filternode "
    "filter-subscription-timeout filter-max-peers-to-serve filter-max-criteria lightpush lightpushnode "
    "discv5-discovery discv5-udp-port discv5-bootstrap-node discv5-enr-auto-update "
    "discv5-table-ip-limit discv5-bucket-ip-limit discv5-bits-per-hop dns-discovery-url dns-discovery "
    "peer-exchange peer-exchange-node rendezvous enable-kad-discovery kad-bootstrap-node "
    "kad-random-lookup-interval kad-service-lookup-interval mix mixkey mixnode rest rest-address "
    "rest-port rest-relay-cache-capacity rest-admin rest-allow-origin metrics-server "
    "metrics-server-address metrics-server-port metrics-logging rate-limit rln-relay rln-relay-dynamic "
    "rln-relay-membership-index rln-relay-cred-path rln-relay-cred-password "
    "rln-relay-eth-client-address rln-relay-eth-contract-address rln-relay-chain-id rln-relay-epoch-sec "
    "rln-relay-user-message-limit rln-relay-eth-private-key execute"
).split(" ")

PEER = "/ip4/192.0.2.1/tcp/60000/p2p/16Uiu2HAmTUbnxLGT9JvV6mu9oPyDjqHK4Phs1VDJNUgESgNSkuby"


def no_file(path: str) -> str:
    raise FileNotFoundError(path)


def taken(
    *arguments: str, environ: Mapping[str, str] | None = None, file: str | None = None
) -> TranslatedSources:
    """Take over a command line, an environment and a file's text."""
    name = None if file is None else "node.toml"
    return take_over(arguments, name, environ or {}, no_file if file is None else lambda _path: file)


def planned(*arguments: str, environ: Mapping[str, str] | None = None, file: str | None = None) -> NodePlan:
    """The node that results."""
    found = taken(*arguments, environ=environ, file=file)
    request = NodeRequest(kernel_only=found.kernel_only, config_file=found.config_file)
    return plan_node(request, found.environ, lambda path: parse_toml(file or "", path), "/srv")


def refusal(*arguments: str, **how: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        planned(*arguments, **how)  # type: ignore[arg-type]
    return caught.value


def test_every_option_of_the_reference_has_a_fate() -> None:
    ours = {name for schema in SCHEMAS.values() for name in ALL_OPTIONS if name in schema}
    assert set(ALL_OPTIONS) == ours | set(REFERENCE_OPTIONS)
    assert not ours & set(REFERENCE_OPTIONS), "it is an option of ours: remove it from the table"
    assert set(REFERENCE_LISTS) <= set(REFERENCE_OPTIONS)
    assert all(option.why for option in REFERENCE_OPTIONS.values())


@pytest.mark.parametrize("name", [name for name in ALL_OPTIONS if name not in ("config-file", "entry-layer")])
def test_every_option_is_known_on_the_command_line_in_the_environment_and_in_the_file(name: str) -> None:
    variable = PREFIXES[-1] + name.upper().replace("-", "_")
    flag = (f"--{name}=0",)
    for arguments, environ, file in (flag, {}, None), ((), {variable: "0"}, None), ((), {}, f"{name} = 0"):
        try:
            said = " ".join(taken(*arguments, environ=environ, file=file).warnings)
        except ConfigError as error:  # a value that the option cannot have, or a refusal with its reason
            said = str(error)
        assert "no such option" not in said
        assert "no option, ignored" not in said


@pytest.mark.parametrize(
    "name", [name for name, one in REFERENCE_OPTIONS.items() if one.fate is Fate.IGNORED]
)
def test_what_does_nothing_here_is_one_warning(name: str) -> None:
    if any(name in schema for schema in SCHEMAS.values()):
        return
    found = taken("--preset=logos.test", f"--{name}=true")
    [warning] = found.warnings
    assert warning == f"--{name} does nothing here: {REFERENCE_OPTIONS[name].why}"
    if REFERENCE_OPTIONS[name].asks:
        assert taken("--preset=logos.test", f"--{name}=false").warnings == ()


@pytest.mark.parametrize("name", ["rln-relay", "mix"])
def test_what_would_change_the_meaning_is_refused_with_its_reason(name: str) -> None:
    for error in (
        refusal(f"--{name}"),
        refusal(environ={f"WAKUNODE2_{name.upper().replace('-', '_')}": "true"}),
        refusal(file=f"{name} = true"),
    ):
        assert error.key == name
        assert REFERENCE_OPTIONS[name].why in str(error)
    planned("--preset=logos.test", f"--{name}=false")


def test_a_command_line_of_the_reference_as_its_containers_give_it() -> None:
    node = planned(
        "--preset=logos.dev",
        "--entry-layer=kernel",
        *("--relay=true", "--filter=true", "--lightpush=true", "--peer-exchange=true", "--mix=false"),
        *("--keep-alive=true", "--max-connections=150", "--discv5-discovery=true", "--discv5-udp-port=9005"),
        *("--discv5-enr-auto-update=True", "--log-level=DEBUG", "--tcp-port=30304", "--metrics-server=True"),
        *("--metrics-server-port=8003", "--rest=true", "--rest-admin=true", "--rest-port=8645"),
        *(
            "--rest-allow-origin=waku-org.github.io",
            "--rest-allow-origin=localhost:*",
            "--nat=extip:192.0.2.7",
        ),
        *("--store=true", "--store-message-db-url=postgres://postgres:test123@127.0.0.1:5432/postgres"),
        "--store-message-retention-policy=size:1GB",
    )
    assert node.mapi is None
    assert (node.kernel.tcp_port, node.kernel.discovery.discv5_port) == (30304, 9005)
    assert node.kernel.network.preset == "logos.dev"
    assert node.kernel.services.store
    assert node.gateway is not None
    assert node.gateway.rest is not None
    assert node.gateway.metrics is not None
    assert node.gateway.metrics.port == 8003
    # the password stays off every command line of ours
    assert not any("test123" in argument for table in node.tables for argument in node.arguments(table))


def test_the_forms_of_a_flag() -> None:
    for words in (("--tcp-port=7",), ("--tcp-port:7",), ("--tcp-port", "7"), ("--TCP-PORT=7",)):
        assert planned(*words).kernel.tcp_port == 7
    assert planned("--store", f"--staticnode={PEER}").kernel.services.store
    assert refusal("tcp-port=7").message == "is not an option of the form --name=value"
    assert "did you mean tcp-port" in refusal("--tcp-prot=7").message
    assert "2 times" in refusal("--tcp-port=7", "--tcp-port=8").message


def test_precedence_is_that_of_the_reference_and_ours_beats_its_variables_and_file() -> None:
    file = "tcp-port = 1\nmax-connections = 31\npreset = 'logos.test'"
    theirs = {"WAKUNODE2_TCP_PORT": "2"}
    assert planned(file=file).kernel.tcp_port == 1
    assert planned(file=file).kernel.peers.max_connections == 31
    assert planned(file=file, environ=theirs).kernel.tcp_port == 2
    newer = theirs | {"LOGOS_DELIVERY_NODE_TCP_PORT": "3"}
    assert planned(environ=newer).kernel.tcp_port == 3
    ours = newer | {"LOGOS_KERNEL_TCP_PORT": "4"}
    assert planned(environ=ours).kernel.tcp_port == 4
    assert planned("--tcp-port=5", environ=ours).kernel.tcp_port == 5
    assert planned(environ=newer | {"LOGOS_KERNEL_TCP_PORT": ""}).kernel.tcp_port == 3


def test_a_file_may_be_named_by_a_variable_of_either_kind() -> None:
    text = "tcp-port = 9\npreset = 'logos.test'"
    for variable in ("WAKUNODE2_CONFIG_FILE", "LOGOS_KERNEL_CONFIG_FILE"):
        found = take_over((), None, {variable: "/etc/node.toml"}, lambda _path: text)
        assert (found.environ["LOGOS_KERNEL_TCP_PORT"], found.config_file) == ("9", None)
        assert "LOGOS_KERNEL_CONFIG_FILE" not in found.environ
    ours = take_over((), "n.toml", {}, lambda _path: "[kernel]\ntcp-port = 9\n")
    assert (ours.config_file, ours.environ) == ("n.toml", {})
    assert refusal(file="tcp-prot = 1").key == "tcp-prot"
    assert "cannot read" in str(refusal("--config-file=gone.toml"))


def test_unknown_variables_are_reported_not_refused() -> None:
    assert taken(environ={"WAKUNODE2_PORT": "tcp://10.0.0.1:80"}).warnings == (
        "no option, ignored: WAKUNODE2_PORT",
    )


def test_the_mode_decides_about_relay_where_there_is_a_messaging_api() -> None:
    words = ("--preset=logos.test", "--mode=Core", "--relay=false")
    whole = planned(*words)
    assert whole.kernel.peers.relay
    assert "--relay does nothing here" in "".join(taken(*words).warnings)
    alone = planned(*words, "--entry-layer=kernel")
    assert (alone.mapi, alone.kernel.peers.relay) == (None, False)
    assert not planned("--preset=logos.test", "--mode=Edge").kernel.peers.relay
    assert refusal("--entry-layer=top").key == "entry-layer"


def test_the_network_is_the_one_that_the_reference_would_join() -> None:
    assert planned("--cluster-id=1", "--entry-layer=kernel").kernel.network.preset == "twn"
    static = planned("--cluster-id=16", "--shard=32", "--shard=64", "--entry-layer=kernel").kernel
    assert (static.network.shard_count, static.shards) == (0, (32, 64))
    assert planned("--cluster-id=9", "--num-shards-in-network=4").kernel.shards == (0, 1, 2, 3)
    assert refusal("--cluster-id=2").key == "cluster-id"
    assert planned("--preset=logos.test", "--cluster-id=2").kernel.network.cluster == 2


def test_a_content_topic_adds_its_shard_to_those_that_are_named() -> None:
    topic = "/toy-chat/2/huilong/proto"
    shard = autoshard(topic, 8)
    other = (shard + 1) % 8
    node = planned("--preset=logos.test", f"--shard={other}", f"--content-topic={topic}")
    assert set(node.kernel.shards) == {shard, other}
    assert len(planned("--preset=logos.test", f"--content-topic={topic}").kernel.shards) == 8
    assert refusal("--preset=logos.test", "--shard=1", "--content-topic=x").key == "content-topic"
    assert refusal("--cluster-id=9", "--shard=1", f"--content-topic={topic}").key == "content-topic"


def test_a_secret_on_the_command_line_is_taken_with_a_warning() -> None:
    key = "11" * 32
    found = taken("--preset=logos.test", f"--nodekey={key}")
    assert found.environ["LOGOS_KERNEL_NODEKEY"] == key
    assert ["LOGOS_KERNEL_NODEKEY" in warning for warning in found.warnings] == [True]
    assert key not in str(found.warnings)
    assert taken(environ={"WAKUNODE2_NODEKEY": key, "WAKUNODE2_PRESET": "twn"}).warnings == ()


def test_words_of_logos_up_may_be_options_of_the_reference() -> None:
    ours, theirs = split_words(["tcp-port=7", "keep-alive=true", "entry-layer=kernel", "nonsense=1"])
    assert ours == ["tcp-port=7", "nonsense=1"]
    assert theirs == ["--keep-alive=true", "--entry-layer=kernel"]


@pytest.mark.parametrize("word", ["preset=twn", "kernel.num-shards-in-network=4"])
def test_a_network_named_beside_them_is_the_network(word: str) -> None:
    found = take_over(("--keep-alive=true",), None, {}, no_file, (word,))
    assert "LOGOS_KERNEL_NUM_SHARDS_IN_NETWORK" not in found.environ
    assert len(found.warnings) == 1


def test_lists_in_variables() -> None:
    other = PEER.replace("192.0.2.1", "192.0.2.2")
    for text in (f"{PEER},{other}", f'["{PEER}", "{other}"]'):
        assert planned(environ={"WAKUNODE2_STATICNODE": text}).kernel.static_nodes == (PEER, other)
