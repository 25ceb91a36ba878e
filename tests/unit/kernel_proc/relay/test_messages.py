"""The id of a message."""

from __future__ import annotations

from hashlib import sha256

import pytest

from kernel_proc.relay.messages import message_id_of


@pytest.mark.parametrize("data", [b"", b"a", bytes(1024), bytes(150_000)], ids=len)
def test_the_id_of_a_message_is_its_sha256_whatever_was_hashed_before(data: bytes) -> None:
    assert message_id_of(b"another") == sha256(b"another").digest()
    assert message_id_of(data) == message_id_of(data) == sha256(data).digest()
