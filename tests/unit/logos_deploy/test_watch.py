"""What supervisord's reports mean for `logos up`."""

from __future__ import annotations

from logos_deploy.exits import Exit
from logos_deploy.node.restarts import MAX_RESTARTS, RESTART_WINDOW
from logos_deploy.node.rpc import ProcessState
from logos_deploy.node.watch import NodeWatch


def state(name: str, pid: int = 0, word: str = "RUNNING", status: int = 0) -> ProcessState:
    return ProcessState(name, word, pid, status, "no such file" if word == "FATAL" else "")


def test_new_processes_are_shown_once_and_restarts_are_marked() -> None:
    watch = NodeWatch()
    assert watch.started(0.0, [state("kernel", 1), state("mapi", 2)]) == [
        ("kernel", 1, False),
        ("mapi", 2, False),
    ]
    assert watch.started(1.0, [state("kernel", 1), state("mapi", 2)]) == []
    assert watch.started(2.0, [state("kernel", 0, "EXITED", 70), state("mapi", 2)]) == []
    assert watch.started(3.0, [state("kernel", 3), state("mapi", 2)]) == [("kernel", 3, True)]
    assert watch.verdict(3.0, [state("kernel", 3), state("mapi", 2)]) is None


def test_a_refused_configuration_ends_the_node() -> None:
    verdict = NodeWatch().verdict(0.0, [state("kernel", 1), state("mapi", word="EXITED", status=78)])
    assert verdict is not None
    assert verdict.code is Exit.CONFIG
    assert "mapi" in verdict.reason


def test_one_process_that_ended_as_asked_does_not_end_the_other() -> None:
    watch = NodeWatch()
    assert watch.verdict(0.0, [state("kernel", word="EXITED"), state("mapi", 2)]) is None
    verdict = watch.verdict(0.0, [state("kernel", word="EXITED"), state("mapi", word="EXITED")])
    assert verdict is not None
    assert verdict.code is Exit.OK


def test_a_process_that_cannot_be_started_ends_the_node() -> None:
    verdict = NodeWatch().verdict(0.0, [state("kernel", word="FATAL"), state("mapi", 2)])
    assert verdict is not None
    assert verdict.code is Exit.FAILED
    assert "no such file" in verdict.reason


def test_a_process_that_ends_again_and_again_is_given_up() -> None:
    watch = NodeWatch()
    for number in range(MAX_RESTARTS + 1):
        assert watch.verdict(number, [state("kernel", number + 1)]) is None
        watch.started(number, [state("kernel", number + 1)])
    verdict = watch.verdict(MAX_RESTARTS, [state("kernel", 99)])
    assert verdict is not None
    assert verdict.code is Exit.FAILED


def test_restarts_over_a_long_time_are_no_reason() -> None:
    watch = NodeWatch()
    for number in range(10 * MAX_RESTARTS):
        now = number * RESTART_WINDOW
        watch.started(now, [state("kernel", number + 1)])
        assert watch.verdict(now, [state("kernel", number + 1)]) is None
