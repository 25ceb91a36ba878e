"""What `logos doctor` says of a node that runs: its sends that wait, its archive."""

from __future__ import annotations

import json

from ipc_schema.kernel.records import NodeHealth, ProtocolHealth, ProtocolState
from logos_deploy.commands.doctor import archive_findings, sends_findings


def test_waiting_sends_are_named_with_the_last_cause() -> None:
    states = {"parked": 1, "retry": 2, "propagated": 4}
    cause = "1 peer connected, none on shard 0"
    (finding,) = sends_findings({"pending": 7, "states": states, "cause": cause})
    assert finding.text == f"3 sends for the network to take; last: {cause}"


def test_what_has_propagated_does_not_wait() -> None:
    assert sends_findings({"pending": 4, "states": {"propagated": 4}, "cause": "x"}) == []
    assert sends_findings(None) == []


def received(health: NodeHealth) -> object:
    """As it comes over the wire."""
    return json.loads(json.dumps(health.to_body()))


def test_an_archive_that_cannot_be_reached_is_named_with_its_cause() -> None:
    why = "postgres://u@db/waku: connection failed: Connection refused"
    store = ProtocolHealth(name="Store", state=ProtocolState.NOT_READY, description=why)
    relay = ProtocolHealth(name="Relay", state=ProtocolState.NOT_READY, description="No connected peers")
    (finding,) = archive_findings(received(NodeHealth(state="NOT_READY", protocols=(relay, store))))
    assert finding.text == why
    damaged = ProtocolHealth(name="Store", state=ProtocolState.READY, description="damaged spool files")
    assert (
        archive_findings(received(NodeHealth(state="READY", protocols=(damaged,))))[0].text
        == damaged.description
    )
    assert archive_findings(received(NodeHealth(state="READY", protocols=(relay,)))) == []
    assert archive_findings(None) == []
    assert archive_findings({"state": 7}) == []
