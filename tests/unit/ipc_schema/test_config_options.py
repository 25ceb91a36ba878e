"""Options, layers, precedence, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.config import kinds
from ipc_schema.config.common import describe
from ipc_schema.config.options import (
    ConfigError,
    Layer,
    OptionSection,
    Origin,
    PortUse,
    Schema,
    option,
    refuse_port_clashes,
    resolve,
)


@dataclass(frozen=True, kw_only=True)
class AllOptions(OptionSection):
    TITLE: ClassVar[str] = "All"

    tcp_port: int = option(kinds.PORT, "port", default=60000)
    staticnode: tuple[str, ...] = option(kinds.TEXT, "peers", repeatable=True)
    nodekey: bytes | None = option(kinds.PRIVATE_KEY, "key", unset="made on first start", secret=True)
    data_dir: str = option(kinds.PATH, "place", default="./data", aliases=("local-storage-path",))


@dataclass(frozen=True, kw_only=True)
class Options:
    everything: AllOptions


SCHEMA = Schema("kernel", Options, {"gone": "an option of the gateway"})


def test_defaults_hold_when_nothing_is_said() -> None:
    resolved = resolve(SCHEMA, [])
    assert resolved.options.everything == AllOptions()
    assert AllOptions() == AllOptions(tcp_port=60000, staticnode=(), nodekey=None, data_dir="./data")
    assert resolved.source_of("tcp-port") == (60000, Origin.DEFAULT, "")
    assert not resolved.explicit("tcp-port")


@given(st.permutations(list(Origin)[1:]), st.sets(st.sampled_from(list(Origin)[1:])))
def test_the_strongest_origin_wins_in_whatever_order_layers_come(
    order: list[Origin], used: set[Origin]
) -> None:
    ports = {origin: 1000 + rank for rank, origin in enumerate(Origin)}
    layers = [Layer(origin, {"tcp-port": ports[origin]}, detail="d") for origin in order if origin in used]
    value = resolve(SCHEMA, layers).source_of("tcp-port")
    if used:
        strongest = max(used, key=list(Origin).index)
        assert value == (ports[strongest], strongest, "d")
    else:
        assert value.origin is Origin.DEFAULT


def test_a_later_layer_of_one_origin_wins() -> None:
    layers = [Layer(Origin.FLAG, {"tcp-port": 1}), Layer(Origin.FLAG, {"tcp-port": 2})]
    assert resolve(SCHEMA, layers).value("tcp-port") == 2


def test_none_means_unset() -> None:
    layers = [Layer(Origin.FLAG, {"tcp-port": None}), Layer(Origin.FILE, {"tcp-port": "5"})]
    assert resolve(SCHEMA, layers).source_of("tcp-port")[:2] == (5, Origin.FILE)


def test_lists_are_the_presets_and_the_strongest_explicit_ones() -> None:
    preset = Layer(Origin.PRESET, {"staticnode": ["p", "q"]}, detail="net")
    file = Layer(Origin.FILE, {"staticnode": ["f"]})
    flags = Layer(Origin.FLAG, {"staticnode": ["q", "g", "g"]})
    assert resolve(SCHEMA, [preset]).value("staticnode") == ("p", "q")
    assert resolve(SCHEMA, [preset]).source_of("staticnode").origin is Origin.PRESET
    assert resolve(SCHEMA, [flags, file, preset]).value("staticnode") == ("p", "q", "g")
    assert resolve(SCHEMA, [file, preset]).value("staticnode") == ("p", "q", "f")
    assert resolve(SCHEMA, [file, flags]).value("staticnode") == ("q", "g")
    assert resolve(SCHEMA, [file, Layer(Origin.FLAG, {"staticnode": []})]).value("staticnode") == ()
    assert resolve(SCHEMA, [Layer(Origin.FLAG, {"staticnode": "one"})]).value("staticnode") == ("one",)


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(SCHEMA, [Layer(Origin.FILE, {"tcp_prot": 1}, {"tcp_prot": "node.toml line 3"})])
    assert caught.value.key == "tcp_prot"
    assert str(caught.value) == (
        "tcp_prot: there is no such option in [kernel], did you mean tcp-port? (file node.toml line 3)"
    )
    with pytest.raises(ConfigError) as caught:
        resolve(SCHEMA, [Layer(Origin.FILE, {"xyzzy": None})])
    assert "did you mean" not in str(caught.value)


def test_a_bad_value_is_refused_with_key_and_place() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(SCHEMA, [Layer(Origin.ENVIRONMENT, {"tcp-port": "70000"}, detail="LOGOS_KERNEL_TCP_PORT")])
    assert caught.value.key == "tcp-port"
    assert str(caught.value) == "tcp-port: 70000 is not in 0..65535 (environment LOGOS_KERNEL_TCP_PORT)"


@pytest.mark.parametrize(
    ("key", "raw", "text"),
    [
        *(("tcp-port", raw, "tcp-port: takes one value") for raw in ([1], {"a": 1}, (1, 2))),
        *(("staticnode", raw, "staticnode") for raw in ([None], [["a"]], [1])),
    ],
)
def test_lists_for_one_value_and_bad_list_items_are_refused(key: str, raw: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve(SCHEMA, [Layer(Origin.FILE, {key: raw})])


def test_an_alias_is_the_same_option() -> None:
    assert resolve(SCHEMA, [Layer(Origin.FILE, {"local-storage-path": "/d"})]).value("data-dir") == "/d"
    layers = [Layer(Origin.FILE, {"local-storage-path": "/d"}), Layer(Origin.FLAG, {"data-dir": "/e"})]
    assert resolve(SCHEMA, layers).value("data-dir") == "/e"
    with pytest.raises(ConfigError, match="same option"):
        resolve(SCHEMA, [Layer(Origin.FILE, {"local-storage-path": "/d", "data-dir": "/e"})])


def test_two_options_of_one_name_are_a_programming_error() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice:
        one: AllOptions
        other: AllOptions

    with pytest.raises(ValueError, match="two options"):
        Schema("kernel", Twice)


def test_an_option_that_has_moved_says_where_it_is() -> None:
    with pytest.raises(ConfigError, match=r"gone: is now an option of the gateway \(file n.toml\)"):
        resolve(SCHEMA, [Layer(Origin.FILE, {"gone": 1}, detail="n.toml")])


def test_port_clashes_name_both_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_port_clashes([PortUse("tcp-port", "127.0.0.1", 9), PortUse("websocket-port", "127.0.0.1", 9)])
    assert caught.value.key == "websocket-port"
    assert "tcp-port" in str(caught.value)
    with pytest.raises(ConfigError):
        refuse_port_clashes([PortUse("a", "127.0.0.1", 9), PortUse("b", "0.0.0.0", 9)])
    refuse_port_clashes([PortUse("a", "127.0.0.1", 9), PortUse("b", "127.0.0.2", 9)])
    refuse_port_clashes([PortUse("a", "127.0.0.1", 0), PortUse("b", "127.0.0.1", 0)])
    refuse_port_clashes([PortUse("a", "127.0.0.1", 8), PortUse("b", "127.0.0.1", 9)])


def test_describe_shows_defaults_values_and_origins_but_no_secret() -> None:
    secret = "11" * 32
    rows = {row["name"]: row for row in describe(SCHEMA)}
    assert rows["tcp-port"] == {"name": "tcp-port", "type": "port", "default": 60000, "doc": "port"}
    assert rows["staticnode"]["type"] == "list of text"
    assert rows["staticnode"]["default"] == []
    assert rows["nodekey"]["doc"] == "key (unset: made on first start)"
    resolved = resolve(
        SCHEMA, [Layer(Origin.FLAG, {"nodekey": secret, "staticnode": ["a"]}, {"nodekey": "--nodekey"})]
    )
    rows = {row["name"]: row for row in describe(SCHEMA, resolved)}
    assert rows["nodekey"]["origin"] == "flag"
    assert rows["nodekey"]["detail"] == "--nodekey"
    assert rows["staticnode"]["value"] == ["a"]
    assert secret not in repr(rows)
    unset = {row["name"]: row for row in describe(SCHEMA, resolve(SCHEMA, []))}
    assert unset["nodekey"]["value"] is None
