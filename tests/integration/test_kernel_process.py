"""The kernel as a process: options, refusals with their exit codes, a clean end."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel_proc.p2p.keys import NodeKey
from tests.support.kernel_process import KernelProcess, eventually, short_directory

pytestmark = pytest.mark.integration

EXIT_FAILED = 70
EXIT_CONFIG = 78


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def run(*options: str, **more: object) -> tuple[int, str]:
    """Start a kernel that is expected to refuse: exit code and what it said."""
    environment = dict(os.environ)
    environment.update({key: str(value) for key, value in more.items() if key.startswith("LOGOS_")})
    done = subprocess.run(
        [sys.executable, "-m", "kernel_proc", *options],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--tcp-port=seventy"], "tcp-port"),
        (["--no-such-option=1"], "no-such-option"),
        (["--preset=nowhere"], "preset"),
        (["--shard=9"], "shard"),
        (["--nodekey=1234"], "nodekey"),
        (["--listen-address=example.org"], "listen-address"),
        (["--listen-address=fe80::1%lo"], "listen-address"),
        (
            ["--staticnode=/ip4/127.0.0.1/tcp/1/p2p/16Uiu2HAmTUbnxLGT9JvV6mu9oPyDjqHK4Phs1VDJNUgESgNSkub"],
            "staticnode",
        ),
        (["--ipc-requests=tcp://0.0.0.0:5555"], "ipc-requests"),
        (["--config-file=/no/such/file"], "config-file"),
        (["--ipc-group=no-such-group"], "ipc-group"),
        (["--ipc-dir=/tmp/" + "x" * 120], "ipc-dir"),
    ],
)
def test_bad_options_are_refused_by_name(directory: Path, options: list[str], key: str) -> None:
    code, said = run(f"--data-dir={directory}/k", "--tcp-port=0", *options)
    assert code == EXIT_CONFIG
    assert key in said


def test_bad_variables_and_files_are_refused_by_name(directory: Path) -> None:
    code, said = run(f"--data-dir={directory}/k", LOGOS_KERNEL_TCP_PRT="1")
    assert code == EXIT_CONFIG
    assert "LOGOS_KERNEL_TCP_PRT" in said
    file = directory / "node.toml"
    file.write_text("[kernel]\nunknown = 1\n")
    code, said = run(f"--config-file={file}", f"--data-dir={directory}/k")
    assert code == EXIT_CONFIG
    assert "unknown" in said


def test_sources_are_put_together(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = directory / "node.toml"
    file.write_text('[kernel]\ncluster-id = 9\nlog-format = "JSON"\nshard = [0]\n[mapi]\n')
    monkeypatch.setenv("LOGOS_KERNEL_AGENT_STRING", "test-agent")
    with KernelProcess(directory / "k", f"--config-file={file}") as kernel:
        options = {o["name"]: o for o in kernel.dealer().ok("node.config")["options"]}
        assert (options["cluster-id"]["value"], options["cluster-id"]["origin"]) == (9, "file")
        assert (options["agent-string"]["value"], options["agent-string"]["origin"]) == (
            "test-agent",
            "environment",
        )
        assert options["tcp-port"]["origin"] == "flag"
        details = [options[name]["detail"] for name in ("cluster-id", "agent-string", "tcp-port")]
        assert details == [f"{file} line 2", "LOGOS_KERNEL_AGENT_STRING", "--tcp-port"]
        lines = [json.loads(line) for line in kernel.log.read_text().splitlines()]
        ready = next(line for line in lines if line["msg"] == "ready")
        assert ready["cluster"] == 9
        assert ready["requests"] == kernel.endpoints.requests


def test_a_second_node_on_one_data_directory_is_refused(directory: Path) -> None:
    with KernelProcess(directory / "k") as kernel:
        assert kernel.process is not None
        # also when its sockets would lie elsewhere
        for options in ([], [f"--ipc-dir={directory}/elsewhere"]):
            code, said = run(f"--data-dir={directory}/k", "--tcp-port=0", *options)
            assert code == EXIT_FAILED  # the other one may be about to end
            assert f"in use by process {kernel.process.pid}" in said
        # and another data directory with the same sockets
        code, said = run(f"--data-dir={directory}/other", "--tcp-port=0", f"--ipc-dir={directory}/k/run")
        assert code == EXIT_FAILED
        assert "in use" in said
        assert kernel.control().ok("health")["ready"]


def test_a_port_that_is_taken_is_named(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = run(f"--data-dir={directory}/k", f"--tcp-port={port}")
    assert code == EXIT_FAILED
    assert f"tcp-port {port}" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(directory: Path, number: int) -> None:
    with KernelProcess(directory / "k", "--shard=0") as kernel:
        assert kernel.stop(number) == 0
        run_dir = directory / "k" / "run" / "kernel"
        assert {entry.name for entry in run_dir.iterdir()} == {"lock"}
        assert "stopped" in kernel.log.read_text()


def test_control_ends_it_with_an_answer(directory: Path) -> None:
    with KernelProcess(directory / "k") as kernel:
        assert kernel.control().ok("shutdown") == {}
        assert kernel.process is not None
        assert kernel.process.wait(30) == 0


def test_a_data_directory_that_cannot_be_used(directory: Path) -> None:
    (directory / "file").write_text("")
    code, said = run(f"--data-dir={directory}/file/data")
    assert code == EXIT_CONFIG
    assert "data-dir" in said
    (directory / "k").mkdir(mode=0o700)
    (directory / "k" / "nodekey").write_text("not a key\n")
    (directory / "k" / "nodekey").chmod(0o600)
    code, said = run(f"--data-dir={directory}/k", "--tcp-port=0")
    assert code == EXIT_CONFIG
    assert "nodekey" in said
    assert "not a key" not in said


def test_a_full_disk_is_reported(directory: Path) -> None:
    """A limit of 0 bytes a file stands for it: the same call fails in the same way."""

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = subprocess.run(
        [sys.executable, "-m", "kernel_proc", f"--data-dir={directory}/k", "--tcp-port=0"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
        preexec_fn=no_room,
    )
    assert done.returncode == EXIT_FAILED
    assert "data-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_says_little_by_default(directory: Path) -> None:
    with KernelProcess(directory / "k", "--shard=0") as kernel:
        kernel.dealer().code("relay.publish", {"content_topic": "/a/1/b/c"}, b"secret payload")
        kernel.stop()
        text = kernel.log.read_text()
        assert "secret payload" not in text
        assert (kernel.directory / "nodekey").read_text().strip() not in text
        assert len(text.splitlines()) <= 6


def test_addresses_that_cannot_be_used_are_named_and_do_not_end_the_node(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = NodeKey.generate()
    own = f"/ip4/127.0.0.1/tcp/60000/ipfs/{key.peer_id}"
    quic = f"/ip4/127.0.0.1/udp/443/quic-v1/p2p/{NodeKey.generate().peer_id}"
    monkeypatch.setenv("LOGOS_KERNEL_NODEKEY", key.secret_bytes().hex())
    with KernelProcess(directory / "n", f"--staticnode={own}", f"--staticnode={quic}") as node:
        eventually(lambda: "unusable peer address" in node.log.read_text())
        assert f"address={own}" in node.log.read_text()
        assert f"staticnode is skipped: '{quic}': quic-v1 is not spoken here" in node.log.read_text()
        assert node.dealer().ok("node.health", {})["state"] == "READY"
        assert node.stop() == 0


def test_one_setting_listens_on_both_ip_versions(directory: Path) -> None:
    with KernelProcess(directory / "k", "--listen-address=::", "--discv5-discovery=false") as kernel:
        four, six = kernel.info("MyMultiaddresses")["MyMultiaddresses"]
        assert four.startswith("/ip4/0.0.0.0/tcp/")
        assert six.startswith("/ip6/::/tcp/")
        for host, address in (("127.0.0.1", four), ("::1", six)):
            socket.create_connection((host, int(address.split("/")[4])), 10).close()


def test_a_certificate_that_cannot_be_used_is_named(directory: Path) -> None:
    options = ["--websocket-support", "--websocket-port=0", "--websocket-secure-support", "--tcp-port=0"]
    files = ["--websocket-secure-cert-path=/none/chain.pem", "--websocket-secure-key-path=/none/key.pem"]
    code, said = run(f"--data-dir={directory}/k", *options, *files)
    assert code == EXIT_CONFIG
    assert "websocket-secure-support: [Errno 2] No such file or directory: '/none/chain.pem'" in said


def test_a_kernel_whose_database_server_is_away_runs_and_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It serves the rest of the network, is not ready, and says why without the password."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # does not listen
        url = f"postgres://waku:geheim@127.0.0.1:{deaf.getsockname()[1]}/waku"
        monkeypatch.setenv("LOGOS_KERNEL_STORE_MESSAGE_DB_URL", url)
        kernel = KernelProcess(directory / "k", "--store=true", "--shard=0", "--cluster-id=42")
        try:
            kernel.launch()
            health, store = eventually(lambda: _archive_that_is_away(kernel), 30.0)
            assert (health["ready"], health["state"]) == (False, "NOT_READY")
            assert store["state"] == "NOT_READY"
            assert "refused" in store["description"].lower()
            own = kernel.dealer().ok("store.status")
            assert (own["state"], own["topics"], own["waiting"]) == ("stalled", [], 0)
            assert "refused" in own["reason"].lower()
            assert own["away_ms"] > 0
            assert "geheim" not in repr((health, own)) + kernel.log.read_text()
            kernel.dealer().ok("node.health")
            assert kernel.stop() == 0
        finally:
            kernel.__exit__(None, None, None)


def _archive_that_is_away(kernel: KernelProcess) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The kernel's health, and the Store protocol in it once it says what is wrong."""
    control = kernel.control()
    try:
        health = control.ok("health")
    except TimeoutError:
        return None
    finally:
        control.close()
    for protocol in health["health"]["protocols"]:
        said = protocol["description"]
        if protocol["name"] == "Store" and said and not said.startswith("the archive is opening"):
            return health, protocol
    return None
