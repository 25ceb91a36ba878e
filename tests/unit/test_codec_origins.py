"""Each codec is held against something that is not ours: a specification's vectors, a recording, a library.

Vectors that our own code wrote prove only that it has not changed. The table names, for each module that
encodes or decodes, the test that brings in a second opinion, and words that stand there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
CHANNELS: Final = "tests/unit/mapi_proc/channels"
PROTOBUF: Final = ("tests/unit/kernel_proc/protocols/test_against_protobuf.py", "protobuf_reference")
LIVE_JS: Final = ("tests/interop/test_js_peer.py", "js")
JS_CLIENT: Final = ("tests/interop/test_js_client.py", "npm")
ORIGINS: Final = {
    "ipc_schema/frames.py": JS_CLIENT,
    "ipc_schema/kernel/events.py": JS_CLIENT,
    "ipc_schema/mapi/event_codec.py": JS_CLIENT,
    "ipc_schema/message.py": PROTOBUF,
    "kernel_proc/discovery/discv5/messages.py": ("tests/interop/discv5/test_discv5.py", "js"),
    "kernel_proc/discovery/discv5/packets.py": (
        "tests/unit/kernel_proc/discovery/discv5/vectors.py",
        "ethereum/devp2p",
    ),
    "kernel_proc/discovery/dns_tree.py": ("tests/unit/kernel_proc/discovery/test_dns_tree.py", "EIP-1459"),
    "kernel_proc/discovery/enr_values.py": ("tests/interop/discv5/test_discv5.py", "js"),
    "kernel_proc/discovery/rlp.py": ("tests/unit/kernel_proc/discovery/test_rlp.py", "Ethereum wiki"),
    "kernel_proc/p2p/identify.py": ("tests/unit/kernel_proc/p2p/test_identify.py", "nwaku.json"),
    "kernel_proc/p2p/multistream.py": LIVE_JS,
    "kernel_proc/p2p/varint.py": ("tests/unit/test_codec_origins.py", "multiformats"),
    "kernel_proc/protocols/filter/codec.py": PROTOBUF,
    "kernel_proc/protocols/framing.py": ("tests/unit/test_codec_origins.py", "google.protobuf"),
    "kernel_proc/protocols/lightpush_codec.py": PROTOBUF,
    "kernel_proc/protocols/metadata.py": PROTOBUF,
    "kernel_proc/protocols/peer_exchange.py": PROTOBUF,
    "ipc_schema/protobuf.py": PROTOBUF,
    "kernel_proc/protocols/store_codec.py": PROTOBUF,
    "kernel_proc/protocols/sync/codec.py": (
        "tests/unit/kernel_proc/protocols/sync/test_codec.py",
        "as nwaku writes it",
    ),
    "kernel_proc/protocols/sync/transfer_codec.py": PROTOBUF,
    "kernel_proc/relay/rpc_reader.py": PROTOBUF,
    "kernel_proc/relay/rpc_writer.py": PROTOBUF,
    "kernel_proc/reachability/autonat_codec.py": ("tests/interop/test_reachability.py", "go-libp2p"),
    "kernel_proc/reachability/circuit_codec.py": ("tests/interop/test_reachability.py", "go-libp2p"),
    "mapi_proc/channels/sds/bloom.py": (f"{CHANNELS}/test_sds_wire.py", "js_sds.json"),
    "mapi_proc/channels/sds/message.py": (f"{CHANNELS}/test_sds_wire.py", "js_sds.json"),
    "mapi_proc/channels/segmentation/leopard.py": (
        f"{CHANNELS}/test_leopard.py",
        "leopard.json",
    ),
    "mapi_proc/channels/segmentation/message.py": (
        f"{CHANNELS}/test_segmentation.py",
        "LIP-243",
    ),
}
_CODEC: Final = re.compile(r"^def (en|de)code", re.MULTILINE)


@pytest.mark.parametrize("module", sorted(ORIGINS))
def test_the_second_opinion_is_there(module: str) -> None:
    test, words = ORIGINS[module]
    assert (ROOT / module).is_file()
    assert words in (ROOT / test).read_text(encoding="utf-8")


def test_no_codec_is_left_out() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for room in ("ipc_schema", "kernel_proc", "mapi_proc")
        for path in (ROOT / room).rglob("*.py")
        if _CODEC.search(path.read_text(encoding="utf-8"))
    }
    assert found - ORIGINS.keys() == set()


def test_varints_beside_the_examples_of_multiformats_and_google_protobuf() -> None:
    from google.protobuf import message  # noqa: F401 - the package is there, its encoder is below
    from google.protobuf.internal import encoder

    from kernel_proc.p2p import varint
    from kernel_proc.protocols.framing import encode_frame

    # https://github.com/multiformats/unsigned-varint
    examples = {1: "01", 127: "7f", 128: "8001", 255: "ff01", 300: "ac02", 16384: "808001"}
    for number, text in examples.items():
        assert varint.encode(number).hex() == text
    for number in (0, 1, 127, 128, 2**14, 2**31, 2**63 - 1):
        written = encoder._VarintBytes(number)  # type: ignore[attr-defined]
        assert varint.encode(number) == written
    assert encode_frame(bytes(300)) == encoder._VarintBytes(300) + bytes(300)  # type: ignore[attr-defined]
