"""The known networks, as data (nwaku `networks_config`, 64/WAKU2-NETWORK, messaging-api).

A preset describes a network: its cluster, shards, maximum message size and entry nodes. Parts that this
version does not use yet (RLN proofs) are included all the same, since they define the network.

In nwaku `--cluster-id=2` silently means logos.dev, whose cluster is 3. Here nothing follows from a cluster
id: a preset is chosen by name only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ipc_schema.config.options import ConfigError, Layer, Origin
from ipc_schema.hello import NetworkInfo

DEFAULT_MAX_MESSAGE_SIZE: Final = 150 * 1024
"""Bytes of an encoded WakuMessage with all attributes (64/WAKU2-NETWORK)."""


@dataclass(frozen=True, slots=True)
class Rln:
    """Parameters of a network that rate-limits by zero-knowledge proofs (17/WAKU2-RLN-RELAY)."""

    epoch_seconds: int
    user_message_limit: int
    chain_id: int
    contract: str


@dataclass(frozen=True, slots=True)
class Preset:
    """One known network. Sizes in bytes."""

    name: str
    aliases: tuple[str, ...]
    cluster: int
    shard_count: int
    max_message_size: int
    rln: Rln | None
    reliability: bool
    """Sends are confirmed by store nodes (p2p-reliability)."""
    entry_nodes: tuple[str, ...]
    """Multiaddrs and `enrtree:` URLs."""
    discv5: bool
    discv5_boot_nodes: tuple[str, ...]
    """ENRs."""
    kademlia: bool
    mix: bool

    @property
    def network(self) -> NetworkInfo:
        """Return the preset's network, before any override."""
        return NetworkInfo(
            cluster=self.cluster,
            shard_count=self.shard_count,
            max_message_size=self.max_message_size,
            preset=self.name,
            rln_required=self.rln is not None,
        )


def _entries(domain: str, nodes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the multiaddrs of nodes: name → peer id."""
    return tuple(
        f"/dns4/{name}.{domain}.status.im/tcp/30303/p2p/{peer_id}" for name, peer_id in nodes.items()
    )


TWN: Final = Preset(
    name="twn",
    aliases=(),
    cluster=1,
    shard_count=8,
    max_message_size=DEFAULT_MAX_MESSAGE_SIZE,
    rln=Rln(
        epoch_seconds=600,
        user_message_limit=100,
        chain_id=59141,
        contract="0xB9cd878C90E49F797B4431fBF4fb333108CB90e6",
    ),
    reliability=False,
    entry_nodes=(
        "enrtree://AOGYWMBYOUIMOENHXCHILPKY3ZRFEULMFI4DOM442QSZ73TT2A7VI@test.waku.nodes.status.im",
        *_entries(
            "waku.test",
            {
                "node-01.ac-cn-hongkong-c": "16Uiu2HAkzHaTP5JsUwfR9NR8Rj9HC24puS6ocaU8wze4QrXr9iXp",
                "node-01.do-ams3": "16Uiu2HAkykgaECHswi3YKJ5dMLbq2kPVCo89fcyTd38UcQD6ej5W",
                "node-01.gc-us-central1-a": "16Uiu2HAmDCp8XJ9z1ev18zuv8NHekAsjNyezAvmMfFEJkiharitG",
            },
        ),
    ),
    discv5=True,
    discv5_boot_nodes=(),
    kademlia=False,
    mix=False,
)

LOGOS_DEV: Final = Preset(
    name="logos.dev",
    aliases=("logosdev",),
    cluster=3,
    shard_count=8,
    max_message_size=DEFAULT_MAX_MESSAGE_SIZE,
    rln=None,
    reliability=True,
    entry_nodes=_entries(
        "logos.dev",
        {
            "delivery-01.do-ams3": "16Uiu2HAmTUbnxLGT9JvV6mu9oPyDjqHK4Phs1VDJNUgESgNSkuby",
            "delivery-02.do-ams3": "16Uiu2HAmMK7PYygBtKUQ8EHp7EfaD3bCEsJrkFooK8RQ2PVpJprH",
            "delivery-01.gc-us-central1-a": "16Uiu2HAm4S1JYkuzDKLKQvwgAhZKs9otxXqt8SCGtB4hoJP1S397",
            "delivery-02.gc-us-central1-a": "16Uiu2HAm8Y9kgBNtjxvCnf1X6gnZJW5EGE4UwwCL3CCm55TwqBiH",
            "delivery-01.ac-cn-hongkong-c": "16Uiu2HAm8YokiNun9BkeA1ZRmhLbtNUvcwRr64F69tYj9fkGyuEP",
            "delivery-02.ac-cn-hongkong-c": "16Uiu2HAkvwhGHKNry6LACrB8TmEFoCJKEX29XR5dDUzk3UT3UNSE",
        },
    ),
    discv5=True,
    discv5_boot_nodes=(),
    kademlia=True,
    mix=True,
)

LOGOS_TEST: Final = Preset(
    name="logos.test",
    aliases=("logostest",),
    cluster=2,
    shard_count=8,
    max_message_size=DEFAULT_MAX_MESSAGE_SIZE,
    rln=None,
    reliability=True,
    entry_nodes=_entries(
        "logos.test",
        {
            "node-01.do-ams3": "16Uiu2HAmQ9X2xDfPG3uL77V9piYDhjq14JhKCtcmNYsTMKNqrKCj",
            "node-02.do-ams3": "16Uiu2HAmB8NYprrfQrgWVzsJtYWkfjsXbmJEGNMG6othXsQ53BwG",
            "node-01.gc-us-central1-a": "16Uiu2HAmF8WtwGPmeGHgYAX2277jHgy5cW9F7zsB8EqUjBZQAZQ3",
            "node-02.gc-us-central1-a": "16Uiu2HAmUuXhUW9bdJpzN1kfDziFiUZo4bszTk66cvr7uuyCHXR7",
            "node-01.ac-cn-hongkong-c": "16Uiu2HAmL3oU95jh1BZHozn3uNhx8HEneirgr8M1jEAapzXGDqRF",
            "node-02.ac-cn-hongkong-c": "16Uiu2HAm28CoBZjpyxsanC8tQpbvZ7bZJnVYuB1EgFzb571qpWsV",
        },
    ),
    discv5=True,
    discv5_boot_nodes=(),
    kademlia=True,
    mix=True,
)

STATUS_PROD: Final = Preset(
    name="status.prod",
    aliases=("statusprod",),
    cluster=16,
    shard_count=1,
    max_message_size=1024 * 1024,
    rln=None,
    reliability=False,
    entry_nodes=(
        "enrtree://AMOJVZX4V6EXP7NTJPMAYJYST2QP6AJXYW76IU6VGJS7UVSNDYZG4@boot.prod.status.nodes.status.im",
        *_entries(
            "status.prod",
            {
                "boot-01.do-ams3": "16Uiu2HAmAR24Mbb6VuzoyUiGx42UenDkshENVDj4qnmmbabLvo31",
                "boot-01.gc-us-central1-a": "16Uiu2HAm8mUZ18tBWPXDQsaF7PbCKYA35z7WB2xNZH2EVq1qS8LJ",
                "boot-01.ac-cn-hongkong-c": "16Uiu2HAmGwcE8v7gmJNEWFtZtojYpPMTHy2jBLL6xRk33qgDxFWX",
            },
        ),
    ),
    discv5=True,
    discv5_boot_nodes=(),
    kademlia=False,
    mix=False,
)

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {preset.name: preset for preset in (TWN, LOGOS_DEV, LOGOS_TEST, STATUS_PROD)}
)
"""By name, without the aliases."""

_BY_ANY_NAME: Final = {name: preset for preset in PRESETS.values() for name in (preset.name, *preset.aliases)}


def parse_preset_name(raw: object) -> str:
    """Return the canonical name of a preset from its name or an alias, in any case; empty text means none.

    Raises `ValueError`.
    """
    if not isinstance(raw, str):
        raise ValueError(f"expected the name of a network, not {raw!r}")
    name = raw.strip().lower()
    if not name:
        return ""
    preset = _BY_ANY_NAME.get(name)
    if preset is None:
        near = difflib.get_close_matches(name, _BY_ANY_NAME, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no network {raw!r}; {hint}Known: {', '.join(PRESETS)}")
    return preset.name


def find_preset(name: str) -> Preset | None:
    """Return the preset of that name or alias; None for an empty name. Raises `ConfigError("preset", …)`."""
    try:
        return PRESETS.get(parse_preset_name(name))
    except ValueError as error:
        raise ConfigError("preset", str(error)) from None


def preset_layer(preset: Preset) -> Layer:
    """Return the kernel options that a preset sets: network, entry nodes, discovery, public listening."""
    return Layer(
        Origin.PRESET,
        {
            "cluster-id": preset.cluster,
            "num-shards-in-network": preset.shard_count,
            "max-msg-size": preset.max_message_size,
            "entry-node": preset.entry_nodes,
            "discv5-discovery": preset.discv5,
            "discv5-bootstrap-node": preset.discv5_boot_nodes,
            "listen-address": "0.0.0.0",  # noqa: S104 - one joins a public network to be reachable
        },
        detail=preset.name,
    )
