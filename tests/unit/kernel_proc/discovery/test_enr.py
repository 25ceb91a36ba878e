"""Node records: the vectors of EIP-778 and of live Waku nodes, limits, and whatever else may arrive."""

from __future__ import annotations

import random
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.discovery import rlp
from kernel_proc.discovery.enr import (
    MAX_RECORD,
    Enr,
    EnrError,
    EnrFormatError,
    EnrSignatureError,
    EnrSizeError,
    record_size,
    sign_record,
)
from kernel_proc.discovery.enr_identity import Identity, keccak256, peer_id_of, verify
from kernel_proc.discovery.enr_values import Capability
from kernel_proc.p2p.keys import NodeKey, NodeKeyError

EIP_KEY = bytes.fromhex("b71c71a67e1177ad4e901695e1b4b9ee17ae16c6668d313eac2f96dbcda3f291")
EIP_TEXT = (
    "enr:-IS4QHCYrYZbAKWCBRlAy5zzaDZXJBGkcnh4MHcBFZntXNFrdvJjX04jRzjzCBOonrkTfj499SZuOh8R33Ls8RRcy5wBgmlkgnY0"
    "gmlwhH8AAAGJc2VjcDI1NmsxoQPKY0yuDUmstAHYpMa2_oxVtw0RW_QAdpzBQA8yWM0xOIN1ZHCCdl8"
)
SANDBOX = [
    (
        "do-ams3",
        "64.225.80.192",
        (
            "enr:-QESuED0qW1BCmF-oH_ARGPr97Nv767bl_43uoy70vrbah3EaCAdK3Q0iRQ6wkSTTpdrg_dU_NC2ydO8leSlRpBX4pxiAYJpZIJ2"
            "NIJpcIRA4VDAim11bHRpYWRkcnO4XAArNiZub2RlLTAxLmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQZ2XwAtNiZub2RlLTAx"
            "LmRvLWFtczMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQYfQN4DgnJzkwABCAAAAAEAAgADAAQABQAGAAeJc2VjcDI1NmsxoQOTd-h5owwj"
            "-cx7xrmbvQKU8CV3Fomfdvcv1MBc-67T5oN0Y3CCdl-DdWRwgiMohXdha3UyDw"
        ),
    ),
    (
        "gc-us-central1-a",
        "34.66.89.94",
        (
            "enr:-QEkuED9X80QF_jcN9gA2ZRhhmwVEeJnsg_Hyg7IFCTYnZD0BDI7a8HArE61NhJZFwygpHCWkgwSt2vqiABXkBxzIqZBAYJpZIJ2"
            "NIJpcIQiQlleim11bHRpYWRkcnO4bgA0Ni9ub2RlLTAxLmdjLXVzLWNlbnRyYWwxLWEud2FrdS5zYW5kYm94LnN0YXR1cy5pbQZ2XwA2"
            "Ni9ub2RlLTAxLmdjLXVzLWNlbnRyYWwxLWEud2FrdS5zYW5kYm94LnN0YXR1cy5pbQYfQN4DgnJzkwABCAAAAAEAAgADAAQABQAGAAeJ"
            "c2VjcDI1NmsxoQPFAS8zz2cg1QQhxMaK8CzkGQ5wdHvPJcrgLzJGOiHpwYN0Y3CCdl-DdWRwgiMohXdha3UyDw"
        ),
    ),
    (
        "ac-cn-hongkong-c",
        "8.217.37.92",
        (
            "enr:-QEkuEBfEzJm_kigJ2HoSS_RBFJYhKHocGdkhhBr6jSUAWjLdFPp6Pj1l4yiTQp7TGHyu1kC6FyaU573VN8klLsEm-XuAYJpZIJ2"
            "NIJpcIQI2SVcim11bHRpYWRkcnO4bgA0Ni9ub2RlLTAxLmFjLWNuLWhvbmdrb25nLWMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQZ2XwA2"
            "Ni9ub2RlLTAxLmFjLWNuLWhvbmdrb25nLWMud2FrdS5zYW5kYm94LnN0YXR1cy5pbQYfQN4DgnJzkwABCAAAAAEAAgADAAQABQAGAAeJ"
            "c2VjcDI1NmsxoQOwsS69tgD7u1K50r5-qG5hweuTwa0W26aYPnvivpNlrYN0Y3CCdl-DdWRwgiMohXdha3UyDw"
        ),
    ),
]
STATUS_STORE = (
    "enr:-QEMuEAs8JmmyUI3b9v_ADqYtELHUYAsAMS21lA2BMtrzF86tVmyy9cCrhmzfHGHx_g3nybn7jIRybzXTGNj3C2KzrriAYJpZIJ2NIJp"
    "cISf3_Jeim11bHRpYWRkcnO4XAArNiZzdG9yZS0wMS5kby1hbXMzLnN0YXR1cy5wcm9kLnN0YXR1cy5pbQZ2XwAtNiZzdG9yZS0wMS5kby1h"
    "bXMzLnN0YXR1cy5wcm9kLnN0YXR1cy5pbQYBu94DgnJzjQAQBQABACAAQACAAQCJc2VjcDI1NmsxoQLfoaQH3oSYW59yxEBfeAZbltmUnC4B"
    "zYkHqer2VQMTyoN0Y3CCdl-DdWRwgiMohXdha3UyAw"
)
LOCAL_NODE = (
    "enr:-JK4QPmO-sE2ELiWr8qVFs1kaY4jQZQpNaHvSPRmKiKcaDoqYRdki2c1BKSliImsxFeOD_UHnkddNL2l0XT9wlsP0WEBgmlkgnY0gmlw"
    "hH8AAAGJc2VjcDI1NmsxoQIMwKqlOl3zpwnrsKRKHuWPSuFzit1Cl6IZvL2uzBRe8oN0Y3CC6mKDdWRwgiMqhXdha3UyDw"
)
ETHEREUM_NODE = (
    "enr:-KG4QOtcP9X1FbIMOe17QNMKqDxCpm14jcX5tiOE4_TyMrFqbmhPZHK_ZPG2Gxb1GE2xdtodOfx9-cgvNtxnRyHEmC0ghGV0aDKQ9aX9"
    "QgAAAAD__________4JpZIJ2NIJpcIQDE8KdiXNlY3AyNTZrMaEDhpehBDbZjM_L9ek699Y7vhUJ-eAdMyQW_Fil522Y0fODdGNwgiMog3Vk"
    "cIIjKA"
)


def identity(seed: int = 1) -> Identity:
    return Identity(random.Random(seed).randbytes(32))


# --- vectors ----------------------------------------------------------------------------------------------


def test_the_vector_of_eip_778_both_ways() -> None:
    me = Identity(EIP_KEY)
    record = sign_record(me, 1, {b"ip": bytes((127, 0, 0, 1)), b"udp": (30303).to_bytes(2, "big")})
    assert record.text == EIP_TEXT
    again = Enr.from_text(EIP_TEXT)
    assert again == record
    assert hash(again) == hash(record)
    assert again.node_id.hex() == "a448f24c6d18e575453db13171562b71999873db5b286df957af199ec94617f7"
    assert again.node_id == me.node_id
    assert (again.seq, again.ip4, again.udp4, again.tcp4, again.ip6) == (1, "127.0.0.1", 30303, None, None)
    assert again.capabilities is None
    assert again.shards is None
    assert again.addresses == ()


@pytest.mark.parametrize(("site", "ip", "text"), SANDBOX)
def test_boot_nodes_of_the_waku_network(site: str, ip: str, text: str) -> None:
    record = Enr.from_text(text)
    assert record.text == text
    assert (record.seq, record.ip4, record.tcp4, record.udp4) == (1, ip, 30303, 9000)
    assert record.capabilities == (
        Capability.RELAY | Capability.STORE | Capability.FILTER | Capability.LIGHTPUSH
    )
    assert record.shards is not None
    assert (record.shards.cluster, record.shards.shards) == (1, frozenset(range(8)))
    host, me = f"node-01.{site}.waku.sandbox.status.im", record.peer_id
    assert record.addresses == (
        f"/dns4/{host}/tcp/30303/p2p/{me}",
        f"/dns4/{host}/tcp/8000/wss/p2p/{me}",
        f"/ip4/{ip}/tcp/30303/p2p/{me}",
    )


def test_the_first_boot_node_has_the_known_size_and_peer_id() -> None:
    record = Enr.from_text(SANDBOX[0][2])
    assert len(record.raw) == 277
    assert record.peer_id == "16Uiu2HAmNaeL4p3WEYzC9mgXBmBWSgWjPHRvatZTXnp8Jgv3iKsb"


def test_a_status_store_node() -> None:
    record = Enr.from_text(STATUS_STORE)
    assert record.shards is not None
    assert record.shards.cluster == 16
    assert record.shards.shards == {1, 32, 64, 128, 256}
    assert record.capabilities == Capability.RELAY | Capability.STORE
    host = "store-01.do-ams3.status.prod.status.im"
    assert [address.rpartition("/p2p/")[0] for address in record.addresses[:2]] == [
        f"/dns4/{host}/tcp/30303",
        f"/dns4/{host}/tcp/443/wss",
    ]


def test_a_node_without_shards() -> None:
    record = Enr.from_text(LOCAL_NODE)
    assert (len(record.raw), record.seq) == (148, 1)
    assert (record.ip4, record.tcp4, record.udp4) == ("127.0.0.1", 60002, 9002)
    assert record.capabilities == 0x0F
    assert record.shards is None


def test_an_ethereum_node_is_not_a_waku_node() -> None:
    record = Enr.from_text(ETHEREUM_NODE)
    assert record.capabilities is None
    assert b"eth2" in record.pairs


@given(st.binary(min_size=32, max_size=32))
def test_peer_id_is_that_of_libp2p(secret: bytes) -> None:
    try:
        key = NodeKey(secret)
    except NodeKeyError:
        return
    assert Identity(secret).public_key == key.public_key_bytes
    assert peer_id_of(key.public_key_bytes) == key.peer_id


# --- what is refused --------------------------------------------------------------------------------------


def signed_raw(elements: list[rlp.Encodable], me: Identity) -> bytes:
    """A record of any elements behind the signature, rightly signed."""
    signature = me.sign(keccak256(rlp.encode(elements)))
    return rlp.encode([signature, *elements])


def test_forged_records_are_refused() -> None:
    raw = bytearray(Enr.from_text(SANDBOX[0][2]).raw)
    raw[-1] ^= 1  # another capability
    with pytest.raises(EnrSignatureError):
        Enr.from_bytes(bytes(raw))


def test_a_signature_of_another_key_is_refused() -> None:
    me, other = identity(1), identity(2)
    elements: list[rlp.Encodable] = [1, b"id", b"v4", b"secp256k1", me.public_key]
    with pytest.raises(EnrSignatureError):
        Enr.from_bytes(signed_raw(elements, other))
    assert Enr.from_bytes(signed_raw(elements, me)).node_id == me.node_id


def test_the_higher_s_of_a_signature_is_refused() -> None:
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    me, digest = identity(), keccak256(b"text")
    signature = me.sign(digest)
    high = signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert verify(me.public_key, signature, digest)
    assert not verify(me.public_key, high, digest)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ([], "not a list of signature"),
        ([1, b"id"], "not a list of signature"),
        ([1, b"id", b"v4"], "no valid secp256k1 key"),
        ([1, b"id", b"v5", b"secp256k1", b"KEY"], "scheme"),
        ([1, b"secp256k1", b"KEY"], "scheme"),
        ([1, b"id", b"v4", b"secp256k1", b"\x02" + bytes(32)], "no valid secp256k1 key"),
        ([1, b"secp256k1", b"KEY", b"id", b"v4"], "sorted"),
        ([1, b"id", b"v4", b"id", b"v4", b"secp256k1", b"KEY"], "unique"),
        ([1, [b"id"], b"v4", b"secp256k1", b"KEY"], "sorted"),
        ([2**64, b"id", b"v4", b"secp256k1", b"KEY"], "integer"),
        ([[], b"id", b"v4", b"secp256k1", b"KEY"], "integer"),
    ],
)
def test_malformed_records_are_refused_though_signed(elements: list[rlp.Encodable], reason: str) -> None:
    me = identity()
    with pytest.raises(EnrFormatError, match=reason):
        Enr.from_bytes(signed_raw([me.public_key if part == b"KEY" else part for part in elements], me))


def test_size_limit_is_exact() -> None:
    me = identity()
    free = MAX_RECORD - record_size(1, {b"x": bytes(160)})
    largest = sign_record(me, 1, {b"x": bytes(160 + free)})
    assert len(largest.raw) == MAX_RECORD
    assert Enr.from_text(largest.text) == largest
    with pytest.raises(EnrSizeError):
        sign_record(me, 1, {b"x": bytes(161 + free)})
    elements: list[rlp.Encodable] = [1, b"id", b"v4", b"secp256k1", me.public_key, b"x", bytes(161 + free)]
    with pytest.raises(EnrSizeError):
        Enr.from_bytes(signed_raw(elements, me))


@pytest.mark.parametrize(
    "text",
    ["", "enr:", "enr", EIP_TEXT[4:], "ENR:" + EIP_TEXT[4:], EIP_TEXT + "=", " " + EIP_TEXT, EIP_TEXT + "\n",
     EIP_TEXT.replace("_", "/"), "enr:é", "enr:a", "enr:" + "A" * 401, "enrtree://x@y"],
)  # fmt: skip
def test_refused_texts(text: str) -> None:
    with pytest.raises(EnrError):
        Enr.from_text(text)


def test_values_that_are_lists_are_kept_in_raw() -> None:
    me = identity()
    raw = signed_raw([1, b"eth", [[b"x", b"y"]], b"id", b"v4", b"secp256k1", me.public_key], me)
    record = Enr.from_bytes(raw)
    assert record.raw == raw
    assert b"eth" not in record.pairs


def test_unreadable_fields_cost_only_themselves() -> None:
    pairs = {b"ip": b"\1\2\3", b"ip6": b"x", b"tcp": b"\1\2\3", b"udp": b"", b"rs": b"\0", b"rsv": b"\0",
             b"waku2": b"\1\1", b"multiaddrs": b"\0\0"}  # fmt: skip
    record = Enr.from_bytes(sign_record(identity(), 1, pairs).raw)
    assert (record.ip4, record.ip6, record.tcp4, record.udp4, record.udp6) == (None, None, None, None, None)
    assert (record.capabilities, record.shards, record.addresses) == (None, None, ())


def test_ipv6_takes_the_ports_of_ipv4_by_default() -> None:
    six = bytes(15) + b"\1"
    pairs = {b"ip6": six, b"tcp": b"\1\1", b"udp": b"\0\7"}
    record = sign_record(identity(), 1, pairs)
    assert (record.ip6, record.tcp6, record.udp6) == ("::1", 257, 7)
    record = sign_record(identity(), 1, pairs | {b"tcp6": b"\1\2", b"udp6": b"\1\3"})
    assert (record.tcp6, record.udp6) == (258, 259)
    assert record.addresses == (f"/ip6/::1/tcp/258/p2p/{record.peer_id}",)


# --- whatever may arrive ----------------------------------------------------------------------------------


@given(st.binary(max_size=310))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with pytest.raises(EnrError):
        Enr.from_bytes(data)


@given(st.text(max_size=100))
def test_any_text_is_a_record_or_refused(text: str) -> None:
    with pytest.raises(EnrError):
        Enr.from_text("enr:" + text)


@given(st.data())
def test_any_change_of_a_record_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(Enr.from_text(STATUS_STORE).raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EnrError):
        Enr.from_bytes(bytes(raw))
    with pytest.raises(EnrError):
        Enr.from_text("enr:" + urlsafe_b64encode(raw).rstrip(b"=").decode())


keys = st.binary(min_size=1, max_size=12).filter(lambda key: key not in (b"id", b"secp256k1"))


@given(st.integers(0, 2**64 - 1), st.dictionaries(keys, st.binary(max_size=20), max_size=5))
def test_signed_records_round_trip(seq: int, pairs: dict[bytes, bytes]) -> None:
    me = identity()
    record = sign_record(me, seq, pairs)
    assert len(record.raw) == record_size(seq, pairs)
    again = Enr.from_text(record.text)
    assert again.seq == seq
    assert again.pairs == pairs | {b"id": b"v4", b"secp256k1": me.public_key}
    # Nothing in it makes a property raise.
    _ = (again.ip4, again.ip6, again.tcp6, again.udp6, again.shards, again.capabilities, again.addresses)


def test_the_secret_is_not_shown() -> None:
    me = Identity(EIP_KEY)
    assert EIP_KEY.hex() not in repr(me)
    for bad in (bytes(31), bytes(32), b"\xff" * 32):
        with pytest.raises(ValueError) as caught:
            Identity(bad)
        assert bad.hex() not in str(caught.value)
