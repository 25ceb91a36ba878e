from __future__ import annotations

from tests.soak.deliveries import AROUND, KEEP, PATIENCE, Deliveries, Figures

LIFE = b"1"


def three() -> Deliveries:
    """Members a, b and c, there since 0."""
    deliveries = Deliveries("abc")
    for name in "abc":
        deliveries.there(name, 0.0)
    return deliveries


def sent(deliveries: Deliveries, at: float, *receivers: str, sender: str = "a") -> int:
    """A message that these got a second later."""
    number = deliveries.send(sender, at)
    deliveries.out(number, at)
    for name in receivers:
        deliveries.receive(name, LIFE, number, at + 1)
    return number


def test_who_gets_everything_once_has_lost_nothing() -> None:
    deliveries = three()
    for at in range(20, 30):
        sent(deliveries, at, *"abc")
    assert deliveries.finish()
    assert deliveries.figures == dict.fromkeys("abc", Figures(expected=10, worst=1.0))
    assert deliveries.examples == []


def test_who_does_not_get_it_has_lost_it() -> None:
    deliveries = three()
    sent(deliveries, 20.0, "a", "b")
    assert deliveries.overdue(21.0) == 0, "not yet"
    assert deliveries.overdue(20.0 + AROUND) == 1
    deliveries.settle(20.0 + PATIENCE)
    assert deliveries.figures["c"].lost == 0
    deliveries.settle(20.1 + PATIENCE)
    assert deliveries.figures["c"].lost == 1
    assert deliveries.overdue(99.0) == 0
    assert deliveries.examples == ["lost: c: message 1 of a, sent at 20.0"]
    assert not deliveries.finish()
    assert deliveries.figures["c"].lost == 1, "judged once"


def test_a_copy_is_doubled_in_one_life_and_no_fault_in_the_next() -> None:
    deliveries = three()
    number = sent(deliveries, 20.0, *"abc")
    deliveries.receive("b", b"2", number, 22.0)
    assert deliveries.figures["b"].doubled == 0
    deliveries.receive("b", LIFE, number, 22.0)
    assert deliveries.figures["b"].doubled == 1
    assert not deliveries.finish()


def test_a_copy_is_known_long_afterwards_and_a_stranger_for_ever() -> None:
    deliveries = three()
    number = sent(deliveries, 20.0, *"abc")
    for now in (20.1 + PATIENCE, 20.1 + KEEP):
        deliveries.settle(now)
        deliveries.receive("a", LIFE, number, now)
    deliveries.receive("a", LIFE, 12345, 400.0)
    assert deliveries.figures["a"].doubled == 3


def test_what_is_sent_around_an_absence_is_excused_and_nothing_else() -> None:
    deliveries = three()
    deliveries.gone("c", 100.0)
    deliveries.gone("c", 101.0)
    deliveries.there("c", 110.0)
    deliveries.there("c", 120.0)
    for at in (100.0 - AROUND, 105.0, 110.0 + AROUND):
        sent(deliveries, at, "a", "b")
    assert deliveries.present(110.0 + AROUND) == ["a", "b"]
    assert deliveries.present(110.1 + AROUND) == ["a", "b", "c"]
    for at in (99.9 - AROUND, 110.1 + AROUND):
        sent(deliveries, at, "a", "b")
    deliveries.finish()
    assert deliveries.figures["c"] == Figures(expected=2, lost=2, excused=3)
    assert deliveries.figures["b"].expected == 5


def test_what_a_sender_takes_with_it_is_excused() -> None:
    deliveries = three()
    sent(deliveries, 20.0, sender="c")
    deliveries.gone("c", 20.0 + AROUND)
    sent(deliveries, 15.0, "c", sender="c")
    deliveries.finish()
    assert deliveries.figures["a"] == Figures(expected=1, lost=1, excused=1), (
        "not if it was there long enough"
    )


def test_what_takes_long_to_leave_its_sender_is_looked_at_when_it_leaves() -> None:
    deliveries = three()
    number = deliveries.send("a", 20.0)
    deliveries.gone("b", 40.0)
    deliveries.out(number, 42.0)
    deliveries.receive("c", LIFE, number, 42.5)
    deliveries.receive("a", LIFE, number, 42.5)
    deliveries.finish()
    assert deliveries.figures["b"] == Figures(excused=1)
    assert deliveries.figures["c"] == Figures(expected=1, worst=22.5)


def test_a_send_that_fails_counts_unless_its_sender_has_gone() -> None:
    deliveries = three()
    deliveries.fail(deliveries.send("a", 20.0), 21.0, "no peers")
    assert deliveries.failed == 1
    number = deliveries.send("b", 20.0)
    deliveries.gone("b", 20.5)
    deliveries.fail(number, 21.0, "no answer")
    assert deliveries.failed == 1
    deliveries.fail(number, 21.0, "no answer")
    assert not deliveries.finish()
    assert deliveries.figures["c"].expected == 0, "what failed need not come"


def test_a_run_in_which_a_member_was_owed_nothing_proves_nothing() -> None:
    deliveries = Deliveries("ab")
    deliveries.there("a", 0.0)
    sent(deliveries, 20.0, "a")
    assert not deliveries.finish()
