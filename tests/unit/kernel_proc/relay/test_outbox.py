from __future__ import annotations

from kernel_proc.relay.outbox import Outbox
from kernel_proc.relay.params import QueueParams


def outbox(**bounds: int) -> Outbox:
    return Outbox(QueueParams(**bounds))


def test_frames_are_joined_up_to_one_write_and_never_split() -> None:
    box = outbox(write_bytes=100)
    for n in range(5):
        assert box.put_message(bytes([n]) * 40, b"")
    assert box.take() == bytes([0]) * 40 + bytes([1]) * 40
    assert box.take() == bytes([2]) * 40 + bytes([3]) * 40
    assert box.take() == bytes([4]) * 40
    assert box.take() == b""
    assert box.size == 0


def test_a_frame_larger_than_a_write_goes_alone_and_uncopied() -> None:
    box = outbox(write_bytes=100)
    frame = bytes(500)
    box.put_message(frame, b"")
    box.put_message(b"x", b"")
    assert box.take() is frame
    assert box.take() == b"x"


def test_control_goes_first_and_a_hello_before_it() -> None:
    box = outbox()
    box.put_message(b"m", b"")
    box.put_control(b"c")
    box.put_first([b"h1", b"h2"])
    assert box.take() == b"h1h2cm"
    assert box.size == 0


def test_messages_are_bounded_in_bytes_and_in_count() -> None:
    box = outbox(message_bytes=100)
    assert box.put_message(bytes(60), b"")
    assert not box.put_message(bytes(60), b"")
    assert box.put_message(bytes(40), b"")
    box = outbox(message_count=2)
    assert [box.put_message(b"x", b"") for _ in range(3)] == [True, True, False]
    box.take()
    assert box.put_message(b"x", b"")


def test_a_message_larger_than_the_bound_passes_an_empty_queue() -> None:
    assert outbox(message_bytes=10).put_message(bytes(60), b"")


def test_control_has_bounds_of_its_own() -> None:
    box = outbox(control_count=2, message_bytes=1)
    box.put_message(bytes(10), b"")
    assert [box.put_control(b"c") for _ in range(3)] == [True, True, False]
    box = outbox(control_bytes=10)
    assert [box.put_control(bytes(6)) for _ in range(2)] == [True, False]


def test_what_the_peer_has_by_now_is_left_out() -> None:
    box = outbox()
    for message_id in (b"1", b"2", b"3"):
        box.put_message(message_id * 10, message_id)
    assert box.take(unwanted=lambda i: i != b"2") == b"2" * 10
    assert box.size == 0
    assert not box


def test_what_a_peer_no_longer_wants_leaves_the_queue_and_its_bounds() -> None:
    box = outbox(message_bytes=100, write_bytes=50)
    for name in (b"a", b"b", b"c"):
        box.put_message(name * 30, name)
    assert box.take(lambda message_id: message_id != b"b") == b"b" * 30
    assert box.take(lambda message_id: message_id == b"c") == b""
    assert box.size == 0
