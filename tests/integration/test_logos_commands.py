"""`logos status`, `send` and `listen` against a node that runs."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator

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


def test_a_message_that_nobody_takes_is_undecided() -> None:
    with short_directory() as directory:
        node = LogosUp(directory / "n")
        try:
            node.wait_said("the node is ready")
            done = logos("send", TOPIC, "x", "--data-dir", str(node.data_dir), "--timeout", "2")
            assert done.returncode == Exit.UNDECIDED
            assert "accepted" in done.stdout
            assert "undecided" in done.stdout
        finally:
            node.close()


def test_nobody_there() -> None:
    with short_directory() as directory:
        where = ("--data-dir", str(directory))
        for command in (("send", TOPIC, "x"), ("listen", TOPIC)):
            done = logos(*command, *where)
            assert done.returncode == Exit.UNAVAILABLE
            assert "does `logos up` run" in done.stderr
            assert "Traceback" not in done.stderr


def test_status_of_a_kernel_that_hangs() -> None:
    """A process that is stopped does not hold the others up."""
    with short_directory() as directory:
        node = LogosUp(directory / "n")
        try:
            node.wait_said("the node is ready")
            kernel = node.pid_of("kernel")
            os.kill(kernel, signal.SIGSTOP)
            try:
                done = logos("status", "--data-dir", str(node.data_dir), "--timeout", "1")
            finally:
                os.kill(kernel, signal.SIGCONT)
            assert done.returncode == Exit.FAILED
            assert "kernel  no answer at" in done.stdout
            assert "mapi    " in done.stdout
        finally:
            node.close()


def test_status_of_a_node_whose_mapi_hangs_is_not_ready() -> None:
    with short_directory() as directory:
        node = LogosUp(directory / "n")
        try:
            node.wait_said("the node is ready")
            mapi = node.pid_of("mapi")
            os.kill(mapi, signal.SIGSTOP)
            try:
                done = logos("status", "--data-dir", str(node.data_dir), "--timeout", "1")
            finally:
                os.kill(mapi, signal.SIGCONT)
            assert done.returncode == Exit.FAILED
            assert "kernel  READY" in done.stdout
            assert "mapi    no answer at" in done.stdout
        finally:
            node.close()
