"""Validator chains and protected shards."""

from __future__ import annotations

import coincurve
import pytest

from ipc_schema.message import WakuMessage, encode_message
from kernel_proc.relay.messages import RelayMessage
from kernel_proc.relay.validation import (
    SignedShard,
    Validator,
    Verdict,
    judge,
    protected_shard_hash,
)

TOPIC = "/waku/2/rs/2/0"
NOW = 1_700_000_000_000_000_000
MINUTE = 60_000_000_000
KEY = coincurve.PrivateKey(b"\x07" * 32)


def relay_message(message: WakuMessage, topic: str = TOPIC) -> RelayMessage:
    return RelayMessage(topic, encode_message(message), message, bytes(32), "peer", NOW)


def compact(key: coincurve.PrivateKey, digest: bytes) -> bytes:
    return key.sign_recoverable(digest, hasher=None)[:64]


def signed(key: coincurve.PrivateKey = KEY, timestamp: int = NOW, topic: str = TOPIC) -> WakuMessage:
    message = WakuMessage(b"payload", "/a/1/b/proto", timestamp=timestamp, ephemeral=True)
    return message._replace(meta=compact(key, protected_shard_hash(topic, message)))


def shard() -> SignedShard:
    return SignedShard(TOPIC, KEY.public_key.format(), lambda: NOW)


def verdict_of(message: WakuMessage, topic: str = TOPIC) -> Verdict:
    return shard()(relay_message(message, topic))


def test_the_hash_has_a_little_endian_timestamp_and_leaves_meta_out() -> None:
    from hashlib import sha256

    message = WakuMessage(b"p", "/t", timestamp=258, meta=b"x", ephemeral=False)
    assert protected_shard_hash("topic", message) == (
        sha256(b"topic" + b"p" + b"/t" + b"\x02\x01" + bytes(6) + b"\x00").digest()
    )


def test_a_message_signed_by_the_owner_is_accepted() -> None:
    assert verdict_of(signed()) is Verdict.ACCEPT


def test_an_uncompressed_key_will_do() -> None:
    protected = SignedShard(TOPIC, KEY.public_key.format(compressed=False), lambda: NOW)
    assert protected(relay_message(signed())) is Verdict.ACCEPT


@pytest.mark.parametrize(
    "message",
    [
        signed()._replace(payload=b"other"),
        signed(key=coincurve.PrivateKey(b"\x08" * 32)),
        signed(topic="/waku/2/rs/2/1"),
        signed()._replace(ephemeral=False),
        signed()._replace(meta=b""),
        signed()._replace(meta=b"\xff" * 64),
        signed()._replace(meta=bytes(64)),
        signed(timestamp=0),
        signed(timestamp=NOW - 5 * MINUTE),
        signed(timestamp=NOW + 5 * MINUTE),
    ],
)
def test_anything_else_is_rejected(message: WakuMessage) -> None:
    assert verdict_of(message) is Verdict.REJECT


def test_the_window_is_just_below_five_minutes() -> None:
    assert verdict_of(signed(timestamp=NOW - 5 * MINUTE + 1)) is Verdict.ACCEPT


def test_a_signature_of_any_age_is_known() -> None:
    old = signed(timestamp=NOW - 10**15)
    assert verdict_of(old) is Verdict.REJECT
    assert shard().is_signed(TOPIC, old)
    assert not shard().is_signed(TOPIC, old._replace(payload=b"other"))
    assert not shard().is_signed(TOPIC, old._replace(meta=b""))
    assert shard().is_signed("/waku/2/rs/1/7", old._replace(meta=b""))


def test_other_topics_are_not_its_business() -> None:
    assert verdict_of(WakuMessage(b"p", "/t"), "/waku/2/rs/2/9") is Verdict.ACCEPT


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        SignedShard(TOPIC, b"\x02" + bytes(32), lambda: NOW)


# -- chains ----------------------------------------------------------------------------------------------


MESSAGE = relay_message(WakuMessage(b"p", "/t"))


def test_the_first_verdict_that_is_not_accept_holds() -> None:
    asked: list[int] = []

    def saying(number: int, verdict: Verdict) -> Validator:
        def validator(_: RelayMessage) -> Verdict:
            asked.append(number)
            return verdict

        return validator

    chain = [saying(1, Verdict.ACCEPT), saying(2, Verdict.IGNORE), saying(3, Verdict.REJECT)]
    assert judge([], MESSAGE) is Verdict.ACCEPT
    assert judge(chain[:1], MESSAGE) is Verdict.ACCEPT
    assert asked == [1]
    assert judge(chain, MESSAGE) is Verdict.IGNORE
    assert asked == [1, 1, 2]
