"""What commands print: events of a kernel, sends pending, screens."""

from __future__ import annotations

import json

import pytest

from ipc_schema.kernel.records import NodeHealth, PeerRecord, ProtocolHealth, ShardHealth
from ipc_schema.mapi.methods import PendingReply, PendingSend
from logos_client.kernel_events import HealthEvent, KernelLost, KernelMessage, PeerEvent, StreamLoss
from logos_deploy.commands import pending, tail
from logos_deploy.commands.output import Screen, clock_time, to_json

MESSAGE = KernelMessage(
    "m/1/0", b"i" * 16, b"e" * 8, 5, 1_700_000_000_000_000_000, "/a/1/\x1b[2J/c", b"secret\x07",
    b"\xab" * 32, 0, b"", True, 0, b"", 2,
)  # fmt: skip
HEALTH = NodeHealth(
    state="READY",
    protocols=(ProtocolHealth(name="Relay", state="READY", strength=1),),
    shards=(ShardHealth(shard=0, pubsub_topic="/waku/2/rs/1/0", health="UNHEALTHY"),),
)


def printer(*, payloads: bool = False) -> tail.Printer:
    return tail.Printer(as_json=False, payloads=payloads, health=NodeHealth(state="NOT_READY"))


def test_a_payload_is_shown_only_when_asked_for() -> None:
    (line,) = printer().lines(MESSAGE)
    assert "0x" + "ab" * 32 in line
    assert "7 B  self ephemeral" in line
    assert "secret" not in line
    assert "\x1b" not in line
    _, payload = printer(payloads=True).lines(MESSAGE)
    assert payload.strip() == "secret\\x07"
    assert "payload" not in tail.as_object(MESSAGE, payloads=False)
    row = json.loads(to_json(tail.as_object(MESSAGE, payloads=True)))
    assert row["payload"] == "c2VjcmV0Bw=="
    assert (row["size"], row["source"], row["epoch"]) == (7, "self", (b"e" * 8).hex())


def test_of_health_only_changes_are_shown() -> None:
    out = printer()
    event = HealthEvent(b"", b"", 1, 1, HEALTH)
    lines = [line.split("health   ")[1] for line in out.lines(event)]
    assert lines == ["node NOT_READY → READY", "Relay READY (1 peer)", "shard 0 UNHEALTHY, 0 in the mesh"]
    assert list(out.lines(event)) == []
    assert list(tail.health_changes(HEALTH, NodeHealth(state="READY"))) == ["shard 0 left"]


def test_peers_and_what_is_lost() -> None:
    out = printer()
    peer = PeerRecord(peer_id="16U", direction="inbound", agent="x\ny")
    (line,) = out.lines(PeerEvent(b"", b"", 1, 1, "joined", peer))
    assert "peer     joined 16U inbound" in line
    assert "x\\ny" in line
    (line,) = out.lines(StreamLoss("m/1/0", 3, None, "restarted"))
    assert "m/1/0 3 to ?: restarted" in line
    (line,) = out.lines(KernelLost("no answer"))
    assert "away: no answer" in line
    for event in (KernelLost("x"), StreamLoss("p", 1, 2, "x"), PeerEvent(b"", b"", 1, 1, "left", peer)):
        assert json.loads(to_json(tail.as_object(event, payloads=False)))["event"]


def test_sends_without_a_fate() -> None:
    send = PendingSend(
        request_id=b"\x01" * 16, content_topic="/a/1/b/c", state="retry", accepted_ns=0, attempts=3
    )
    text = pending.as_text(PendingReply(sends=(send,), total=3), 90_000_000_000)
    assert text.splitlines()[1].split() == ["01" * 16, "retry", "1", "min", "30", "s", "3", "/a/1/b/c"]
    assert text.endswith("and 2 more")
    assert pending.as_text(PendingReply(sends=(), total=0), 0) == "no pending sends"
    assert json.loads(to_json(pending.as_json(PendingReply(sends=(send,), total=1))))["sends"][0][
        "requestId"
    ] == ("01" * 16)


def test_a_screen_is_drawn_in_place_only_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    screen.show("one")
    screen.show("two")
    assert capsys.readouterr().out == "one\n\ntwo\n\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    screen = Screen()
    screen.show("one\nmore")
    screen.show("two")
    out = capsys.readouterr().out
    assert out == "\x1b[2J\x1b[Hone\x1b[K\nmore\x1b[K\n\x1b[J\x1b[Htwo\x1b[K\n\x1b[J"


def test_a_time_that_cannot_be_is_still_shown() -> None:
    assert clock_time(-(2**70)) == f"{-(2**70)} ns"
