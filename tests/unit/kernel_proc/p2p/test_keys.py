from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path

import pytest

from kernel_proc.p2p.keys import NodeKey, NodeKeyError, load_or_create_node_key, node_key_from_hex

SECRET = "364d111d729a6eb6d2e6113e163f017b5ef03a6f94c9b5b7bb1bb36fa5cb07a9"


def test_the_key_is_made_once_and_the_peer_id_survives(tmp_path: Path) -> None:
    path = tmp_path / "data" / "node.key"
    first = load_or_create_node_key(path)
    again = load_or_create_node_key(path)
    assert first == again
    assert first.peer_id == again.peer_id
    assert first.peer_id.startswith("16Uiu2HA")


def test_the_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        load_or_create_node_key(tmp_path / "data" / "node.key")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data" / "node.key").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["node.key"]


def test_an_exposed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    load_or_create_node_key(path)
    path.chmod(0o640)
    with pytest.raises(NodeKeyError, match=r"node\.key has mode 0640"):
        load_or_create_node_key(path)


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "00" * 32, "ff" * 32])
def test_a_damaged_file_is_an_error_not_a_new_identity(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.key"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(NodeKeyError) as error:
        load_or_create_node_key(path)
    assert not text or text not in str(error.value)
    assert path.read_text() == text


def test_hex_is_read_with_and_without_prefix() -> None:
    assert node_key_from_hex(SECRET) == node_key_from_hex(f"0x{SECRET.upper()}\n")


@pytest.mark.parametrize("text", ["", "12", SECRET + "00", "g" * 64, "00" * 32])
def test_bad_hex_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(NodeKeyError) as error:
        node_key_from_hex(text)
    assert not text or text not in str(error.value)


def test_the_secret_stays_out_of_text_and_pickles() -> None:
    key = node_key_from_hex(SECRET)
    for text in (repr(key), str(key), f"{key}", repr(vars(type(key)))):
        assert SECRET not in text
        assert repr(bytes.fromhex(SECRET)) not in text
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert key.secret_bytes().hex() == SECRET
    assert len(key.public_key_bytes) == 33


def test_two_keys_differ() -> None:
    assert NodeKey.generate() != NodeKey.generate()
