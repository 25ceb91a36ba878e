"""What `logos doctor` says of sends that wait."""

from __future__ import annotations

from logos_deploy.commands.doctor import sends_findings


def test_waiting_sends_are_named_with_the_last_cause() -> None:
    states = {"parked": 1, "retry": 2, "propagated": 4}
    cause = "1 peer connected, none on shard 0"
    (finding,) = sends_findings({"pending": 7, "states": states, "cause": cause})
    assert finding.text == f"3 sends for the network to take; last: {cause}"


def test_what_has_propagated_does_not_wait() -> None:
    assert sends_findings({"pending": 4, "states": {"propagated": 4}, "cause": "x"}) == []
    assert sends_findings(None) == []
