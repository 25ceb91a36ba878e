from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipc_schema.message import decode_message, message_hash
from kernel_proc.archive.rows import Offer, make_rows, topic_key
from tests.support.archive import NOW, SHARD, make_message

TOPIC = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TOPIC, TOPIC)
def test_a_key_is_a_signed_64_bit_number(pubsub: str, content: str) -> None:
    assert -(1 << 63) <= topic_key(pubsub, content) < 1 << 63


def test_keys_distinguish_topic_pairs() -> None:
    pairs = [("/a", "/b"), ("/b", "/a"), ("/a/b", ""), ("", "/a/b"), ("/a", "/b/")]
    assert len({topic_key(*pair) for pair in pairs}) == len(pairs)


def test_rows_hold_the_whole_message_and_refuse_alone() -> None:
    good = make_message(NOW, "/app/1/ü\0/proto", meta=b"m", proof=b"p", version=2)
    bad = (good._replace(meta=b"m" * 65), good._replace(content_topic="\ud800"), good._replace(version=-1))
    offers = [Offer(SHARD, message, message_hash(SHARD, good), 1) for message in (bad[0], good, *bad[1:])]
    rows, refused = make_rows(offers)
    assert refused == 3
    (row,) = rows
    assert decode_message(row.data) == good
    assert (row.timestamp, row.pubsub_topic, row.content_topic) == (NOW, SHARD, good.content_topic)
