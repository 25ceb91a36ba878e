"""`logos status`, `send` and `listen` against a node that runs."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from logos_deploy.exits import Exit
from tests.integration.logos_node import (
    LOGOS,
    LogosUp,
    clean_environment,
    logos,
    short_directory,
    wait_for,
)

pytestmark = pytest.mark.integration

TOPIC = "/test/1/chat/plain"
NODEKEY = "5a" * 32


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[LogosUp, LogosUp]]:
    """Two nodes, the second with the first as its peer."""
    with short_directory() as directory:
        first = LogosUp(directory / "a")
        second = None
        try:
            first.wait_said("the node is ready")
            (address,) = first.status()["kernel"]["info"]["MyMultiaddresses"]
            second = LogosUp(directory / "b", f"staticnode={address}")
            second.wait_said("the node is ready")
            wait_for(lambda: first.status()["kernel"]["peers"], "the nodes are connected")
            yield first, second
        finally:
            first.close()
            if second is not None:
                second.close()


class Listener:
    """A `logos listen` in the background."""

    def __init__(self, node: LogosUp, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*LOGOS, "listen", TOPIC, "--data-dir", str(node.data_dir), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        assert self.process.stderr is not None
        assert "listening on" in self.process.stderr.readline()

    def end(self) -> tuple[int, str, str]:
        try:
            out, err = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, out, err


def test_status_for_people(pair: tuple[LogosUp, LogosUp]) -> None:
    node = pair[0]
    done = logos("status", "--data-dir", str(node.data_dir))
    assert done.returncode == Exit.OK
    kernel, mapi = done.stdout.index("kernel  READY"), done.stdout.index("mapi    READY")
    peer_id = pair[1].status()["kernel"]["info"]["MyPeerId"]
    assert kernel < done.stdout.index(peer_id) < mapi
    assert "connection  PartiallyConnected" in done.stdout


def test_a_message_from_one_node_to_the_other(pair: tuple[LogosUp, LogosUp]) -> None:
    listener = Listener(pair[1], "--count", "2", "--json")
    text = logos("send", TOPIC, "grüße", "--data-dir", str(pair[0].data_dir), "--json")
    assert text.returncode == Exit.OK, text.stderr
    accepted, propagated = (json.loads(line) for line in text.stdout.splitlines())
    assert accepted["event"] == "message_accepted"
    assert propagated["event"] == "message_propagated"
    assert propagated["requestId"] == accepted["requestId"]

    payload = bytes(range(256)) * 100
    binary = logos("send", TOPIC, "-", "--data-dir", str(pair[0].data_dir), stdin=payload)
    assert binary.returncode == Exit.OK, binary.stderr
    assert "propagated 0x" in binary.stdout

    code, out, _ = listener.end()
    assert code == Exit.OK
    first, second = (json.loads(line) for line in out.splitlines())
    assert base64.b64decode(first["payload"]).decode() == "grüße"
    assert first["messageHash"] == propagated["messageHash"]
    assert first["contentTopic"] == TOPIC
    assert base64.b64decode(second["payload"]) == payload


def test_a_named_listener_gets_later_what_came_while_it_was_away(pair: tuple[LogosUp, LogosUp]) -> None:
    node = pair[1]
    listener = Listener(node, "--name", "log", "--count", "1")
    sent = logos("send", TOPIC, "first", "--data-dir", str(pair[0].data_dir))
    assert sent.returncode == Exit.OK
    assert listener.end()[1].split()[-1] == "first"

    sent = logos("send", TOPIC, "while away", "--data-dir", str(pair[0].data_dir))
    assert sent.returncode == Exit.OK
    code, out, _ = Listener(node, "--name", "log", "--count", "1").end()
    assert code == Exit.OK
    assert out.rstrip().endswith("while away")


def test_listen_ends_in_good_order(pair: tuple[LogosUp, LogosUp]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        listener = Listener(pair[0])
        listener.process.send_signal(number)
        code, _, err = listener.end()
        assert code == Exit.OK
        assert "Traceback" not in err


def test_what_is_refused(pair: tuple[LogosUp, LogosUp]) -> None:
    data_dir = str(pair[0].data_dir)
    bad = logos("send", "chat", "x", "--data-dir", data_dir)
    assert bad.returncode == Exit.DATA
    assert "content-topic" in bad.stderr or "content topic" in bad.stderr
    assert logos("send", TOPIC, "-", "--data-dir", data_dir).returncode == Exit.DATA  # empty
    large = logos("send", TOPIC, "-", "--data-dir", data_dir, stdin=b"x" * 160_000)
    assert large.returncode == Exit.DATA
    assert "Message size exceeded maximum of" in large.stderr
    topic = logos("listen", "chat", "--data-dir", data_dir)
    assert topic.returncode == Exit.DATA
    assert topic.stderr.startswith("logos: chat: ")


@pytest.fixture(scope="module")
def lone() -> Iterator[LogosUp]:
    """A node without peers, with a secret in its environment."""
    with short_directory() as directory:
        node = LogosUp(directory / "n", "send-window=50s", environ={"LOGOS_KERNEL_NODEKEY": NODEKEY})
        try:
            node.wait_said("the node is ready")
            yield node
        finally:
            node.close()


def test_odd_payloads_and_closed_streams(lone: LogosUp) -> None:
    where = ["--data-dir", str(lone.data_dir), "--timeout", "0.2"]
    raw = subprocess.run([*LOGOS, "send", TOPIC, b"\xff\xfe", *where], capture_output=True, timeout=30)
    assert raw.returncode == Exit.UNDECIDED, raw.stderr
    assert b"accepted" in raw.stdout
    with Path("/dev/zero").open("rb") as endless:
        sent = subprocess.run([*LOGOS, "send", TOPIC, *where], stdin=endless, capture_output=True, timeout=30)
    assert sent.returncode == Exit.DATA, sent.stderr
    for redirect, code, text in (
        ("<&-", Exit.DATA, b"standard input is closed"),
        (">&-", Exit.DATA, b""),
        (">/dev/full", Exit.FAILED, b"No space left"),
    ):
        words = [] if redirect == "<&-" else ["x"]
        topic = "/bad" if redirect == ">&-" else TOPIC
        line = f"{shlex.join([*LOGOS, 'send', topic, *words, *where])} {redirect}"
        done = subprocess.run(["/bin/sh", "-c", line], stderr=subprocess.PIPE, timeout=30)
        assert done.returncode == code, (redirect, done.stderr)
        assert text in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_name_in_use_is_named_as_such(lone: LogosUp) -> None:
    first = Listener(lone, "--name", "twice")
    try:
        second = logos("listen", TOPIC, "--name", "twice", "--data-dir", str(lone.data_dir))
    finally:
        first.process.terminate()
        first.end()
    assert second.returncode == Exit.FAILED, second.stderr
    assert "twice" in second.stderr
    assert "does `logos up` run" not in second.stderr


def test_a_node_that_says_no_is_not_called_absent(lone: LogosUp) -> None:
    store = logos("store", "--data-dir", str(lone.data_dir))
    assert (store.returncode, store.stderr) == (Exit.UNAVAILABLE, "logos: store is off on this node\n")


def test_a_message_that_no_peer_takes_is_undecided_and_pending(lone: LogosUp) -> None:
    where = ("--data-dir", str(lone.data_dir))
    done = logos("send", TOPIC, "x", *where, "--timeout", "4", "--name", "sender", "--json")
    assert done.returncode == Exit.UNDECIDED, done.stderr
    assert "-- not propagated yet, the node is Disconnected (no relay peers)" in done.stderr
    accepted, undecided = (json.loads(line) for line in done.stdout.splitlines())
    assert (accepted["event"], undecided["event"]) == ("message_accepted", "message_undecided")

    everybody = json.loads(logos("pending", *where, "--json").stdout)
    assert everybody["total"] >= 1
    one = json.loads(logos("pending", *where, "--name", "sender", "--json").stdout)
    assert [send["requestId"] for send in one["sends"]] == [accepted["requestId"]]
    assert one["sends"][0]["contentTopic"] == TOPIC
    assert accepted["requestId"] in logos("pending", *where, "--name", "sender").stdout
    late = logos("pending", *where, "--name", "sender", "--cancel", accepted["requestId"])
    assert (late.returncode, late.stdout) == (Exit.FAILED, "too late, or there is no such send\n")


def test_sends_of_an_app_are_looked_at_without_disturbing_or_making_it(lone: LogosUp) -> None:
    where = ("--data-dir", str(lone.data_dir))
    listener = Listener(lone, "--name", "busy")
    known = lone.status()["mapi"]["apps"]["known"]
    done = logos("pending", *where, "--name", "busy")
    assert (done.returncode, done.stdout) == (Exit.OK, "no pending sends\n")
    for more in ((), ("--cancel", "00" * 16)):
        unknown = logos("pending", *where, "--name", "unknown", *more)
        assert unknown.returncode == Exit.DATA
        assert "no app is named unknown" in unknown.stderr
    assert lone.status()["mapi"]["apps"]["known"] == known, "asking has made none"
    assert listener.process.poll() is None, "it has kept its connection"
    listener.process.send_signal(signal.SIGTERM)
    assert listener.end()[0] == Exit.OK


def test_apps_are_listed_and_forgotten(lone: LogosUp) -> None:
    where = ("--data-dir", str(lone.data_dir))
    listener = Listener(lone, "--name", "guest")
    assert logos("forget", "guest", *where).returncode == Exit.FAILED, "it is connected"
    assert "guest" in logos("apps", *where).stdout
    listener.process.send_signal(signal.SIGTERM)
    listener.end()
    # an event for it while it is away: the node's own message comes back to it
    sent = logos("send", TOPIC, "for a guest", *where, "--timeout", "1")
    assert sent.returncode == Exit.UNDECIDED
    found = json.loads(logos("apps", *where, "--json").stdout)
    (guest,) = [app for app in found["apps"] if app["name"] == "guest"]
    assert (guest["durable"], guest["connected"], guest["contentTopics"]) == (True, False, 1)
    assert guest["backlog"] == guest["last"] - max(guest["acked"], guest["dropped"])
    assert guest["awayMs"] is not None
    partly = logos("forget", "guest", "stranger", *where)  # what was done before the refusal is said
    assert (partly.returncode, partly.stdout) == (Exit.DATA, "guest is forgotten\n")
    assert "guest" not in logos("apps", *where).stdout
    gone = logos("forget", "guest", *where)
    assert (gone.returncode, "guest" in gone.stderr) == (Exit.DATA, True)


def test_the_log_level_changes_at_run_time(lone: LogosUp) -> None:
    where = ("--data-dir", str(lone.data_dir))
    assert logos("log-level", *where).stdout.split() == ["kernel", "INFO", "mapi", "INFO"]
    try:
        done = logos("log-level", "debug", "--process", "mapi", *where)
        assert done.stdout.split() == ["mapi", "DEBUG", "(was", "INFO)"]
        assert logos("log-level", *where).stdout.split() == ["kernel", "INFO", "mapi", "DEBUG"]
    finally:
        logos("log-level", "INFO", *where)
    for wrong in (("loud",), ("INFO", "--logger", "urllib3.none")):
        assert logos("log-level", *wrong, *where).returncode == Exit.DATA


def test_health_may_want_a_network(lone: LogosUp, pair: tuple[LogosUp, LogosUp]) -> None:
    alone = logos("health", "--connected", "--data-dir", str(lone.data_dir))
    assert (alone.returncode, alone.stdout.splitlines()[-1]) == (Exit.FAILED, "network not connected")
    paired = logos("health", "--connected", "--json", "--data-dir", str(pair[0].data_dir))
    assert paired.returncode == Exit.OK
    assert json.loads(paired.stdout)["connected"] is True


def test_the_configuration_of_a_running_node(lone: LogosUp) -> None:
    done = logos("config", "--running", "--data-dir", str(lone.data_dir), "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert NODEKEY not in done.stdout
    found = json.loads(done.stdout)
    kernel, mapi = ({row["name"]: row for row in found[name]} for name in ("kernel", "mapi"))
    assert (kernel["tcp-port"]["value"], kernel["tcp-port"]["origin"]) == (0, "flag")
    assert kernel["tcp-port"]["detail"] == "--tcp-port"
    assert kernel["nodekey"]["origin"] == "environment"
    assert kernel["nodekey"]["detail"] == "LOGOS_KERNEL_NODEKEY"
    assert (mapi["send-window"]["value"], mapi["send-window"]["origin"]) == ("50s", "flag")


def test_health_and_the_doctor_beside_a_node_that_runs(lone: LogosUp) -> None:
    where = ("--data-dir", str(lone.data_dir))
    health = logos("health", *where)
    assert health.returncode == Exit.OK
    assert [line.split()[:2] for line in health.stdout.splitlines()] == [
        ["kernel", "READY"],
        ["mapi", "READY"],
    ]
    # its own port does not count as taken
    doctor = logos("doctor", *where, "tcp-port=0")
    assert doctor.returncode == Exit.OK, doctor.stdout
    assert f"process {lone.pid_of('kernel')} is running and answers" in doctor.stdout
    assert "no source of peers is configured" in doctor.stdout


def test_tail_shows_messages_without_their_payload(lone: LogosUp) -> None:
    where = ("--data-dir", str(lone.data_dir))
    command = [*LOGOS, "tail", *where, "--only", "messages", "--shard", "0", "--json", "--count", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as tail:
        try:
            # nothing tells from outside when it listens: it sees the first message after that
            for _ in range(100):
                logos("send", TOPIC, "a secret", *where, "--timeout", "0.5")
                if tail.poll() is not None:
                    break
            assert tail.stdout is not None
            row = json.loads(tail.stdout.readline())
            assert tail.wait(10) == Exit.OK
        finally:
            tail.kill()
    assert (row["event"], row["content_topic"], row["size"]) == ("message", TOPIC, 8)
    assert "payload" not in row


def test_status_is_watched_until_it_is_stopped(lone: LogosUp) -> None:
    command = [*LOGOS, "status", "--watch", "0.1", "--json", "--data-dir", str(lone.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as watch:
        try:
            assert watch.stdout is not None
            for _ in range(3):
                assert json.loads(watch.stdout.readline())["kernel"]["ready"]
            watch.send_signal(signal.SIGINT)
            watch.stdout.read()
            assert watch.wait(10) == Exit.OK
        finally:
            watch.kill()


def test_without_a_node() -> None:
    with short_directory() as directory:
        commands = (("send", TOPIC, "x"), ("listen", TOPIC), ("tail",), ("config", "--running"))
        # all at once: each waits a while for a node that may be just starting
        running = [
            subprocess.Popen(
                [*LOGOS, *command, "--data-dir", str(directory)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=clean_environment(),
            )
            for command in commands
        ]
        for command, process in zip(commands, running, strict=True):
            _, error = process.communicate(timeout=40)
            assert process.returncode == Exit.UNAVAILABLE, command
            assert error.startswith("logos: ")
            assert "Traceback" not in error


@pytest.mark.parametrize(("frozen", "other"), [("kernel", "mapi"), ("mapi", "kernel")])
def test_a_process_that_hangs_does_not_hold_the_answer_up(lone: LogosUp, frozen: str, other: str) -> None:
    pid = lone.pid_of(frozen)
    where = ("--data-dir", str(lone.data_dir), "--timeout", "1")
    os.kill(pid, signal.SIGSTOP)
    try:
        status, health = logos("status", *where), logos("health", *where)
        doctor = logos("doctor", "--data-dir", str(lone.data_dir), "tcp-port=0")
    finally:
        os.kill(pid, signal.SIGCONT)
    for done in (status, health):
        assert done.returncode == Exit.FAILED
        assert f"{frozen:<7} no answer at" in done.stdout
        assert f"{other:<7} " in done.stdout
    assert doctor.returncode == Exit.FAILED
    assert f"process {pid} is running but does not answer" in doctor.stdout
    wait_for(lambda: logos("health", *where).returncode == Exit.OK, "the node is ready again")
