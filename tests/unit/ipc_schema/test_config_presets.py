"""The known networks."""

from __future__ import annotations

import dataclasses

import pytest

from ipc_schema.config.addresses import is_multiaddr
from ipc_schema.config.kinds import MULTIADDR
from ipc_schema.config.options import ConfigError
from ipc_schema.config.presets import PRESETS, find_preset
from ipc_schema.hello import NetworkInfo

# name: cluster, shards, largest message, rln, reliability, dialable entry nodes, boot nodes, kademlia, mix
TABLE = {
    "twn": (1, 8, 153_600, True, False, 3, 0, False, False),
    "logos.dev": (3, 8, 153_600, False, True, 6, 0, True, True),
    "logos.test": (2, 8, 153_600, False, True, 6, 0, True, True),
    "status.prod": (16, 1, 1_048_576, False, False, 3, 0, False, False),
}


def test_the_table_of_networks() -> None:
    assert {
        name: (
            preset.cluster,
            preset.shard_count,
            preset.max_message_size,
            preset.rln is not None,
            preset.reliability,
            sum(map(is_multiaddr, preset.entry_nodes)),
            len(preset.discv5_boot_nodes),
            preset.kademlia,
            preset.mix,
        )
        for name, preset in PRESETS.items()
    } == TABLE
    assert all(preset.discv5 for preset in PRESETS.values())


def test_twn_rate_limits_by_proofs() -> None:
    rln = PRESETS["twn"].rln
    assert rln is not None
    assert (rln.epoch_seconds, rln.user_message_limit, rln.chain_id) == (600, 100, 59141)
    assert rln.contract == "0xB9cd878C90E49F797B4431fBF4fb333108CB90e6"
    assert PRESETS["twn"].network == NetworkInfo(
        cluster=1, shard_count=8, max_message_size=153_600, preset="twn", rln_required=True
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("twn", "twn"),
        ("TWN", "twn"),
        ("logosdev", "logos.dev"),
        ("logos.dev", "logos.dev"),
        ("logostest", "logos.test"),
        ("statusprod", "status.prod"),
        (" status.prod ", "status.prod"),
    ],
)
def test_names_and_aliases(text: str, name: str) -> None:
    assert find_preset(text) is PRESETS[name]


def test_an_empty_name_is_not_a_preset() -> None:
    assert find_preset("") is None


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        find_preset("logos.tst")
    assert caught.value.key == "preset"
    assert "did you mean logos.test?" in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)


def test_entry_nodes_are_addresses_that_can_be_dialled() -> None:
    nodes = [node for preset in PRESETS.values() for node in preset.entry_nodes if is_multiaddr(node)]
    for node in nodes:
        MULTIADDR.parse(node)
    assert len(nodes) == len(set(nodes)) == 18
    (tree,) = set(PRESETS["status.prod"].entry_nodes) - set(nodes)
    assert tree.startswith("enrtree://")
    assert tree.endswith("@boot.prod.status.nodes.status.im")


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["twn"].cluster = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        PRESETS["x"] = PRESETS["twn"]  # type: ignore[index]
