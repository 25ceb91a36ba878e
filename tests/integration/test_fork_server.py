"""A forked program behaves as one that is started by its command, whatever the suite was started by."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from logos_process.exits import ExitCode
from tests.support.fork_server import start_module
from tests.support.kernel_process import eventually

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "module", ["kernel_proc", "mapi_proc", "logos_gateway", "logos_bridge", "logos_deploy"]
)
def test_the_same_output_and_exit_code(tmp_path: Path, module: str) -> None:
    arguments = ["--no-such-option"]
    usual = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, check=False)
    with (tmp_path / "log").open("w+b") as log, (tmp_path / "errors").open("w+b") as errors:
        process = start_module(module, arguments, log, errors=errors)
        assert process.wait(20) == usual.returncode == process.poll()
        for file, text in ((log, usual.stdout), (errors, usual.stderr)):
            file.seek(0)
            assert file.read() == text


def test_its_own_environment_and_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {**os.environ, "LOGOS_KERNEL_LOG_LEVEL": "nonsense"}
    with (tmp_path / "log").open("w+b") as log:
        assert start_module("kernel_proc", [], log, env=environ).wait(20) == ExitCode.CONFIG
        log.seek(0)
        assert b"nonsense" in log.read()
        process = start_module(
            "kernel_proc", ["--data-dir=here", "--tcp-port=0", "--listen-address=127.0.0.1"], log
        )
        eventually(lambda: Path(f"/proc/{process.pid}/cwd").readlink() == tmp_path, 20)  # soon after the fork
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL


def test_a_suite_that_ignores_signals_starts_programs_that_do_not() -> None:
    """As under `nohup`, which the node honours: what a test sends would not end it."""
    child = "import signal; print([signal.getsignal(n) == signal.SIG_IGN for n in (1, 2)])"
    suite = (
        "import signal, subprocess, sys\n"
        "from tests.support.ignored_signals import do_not_pass_on_ignored_signals\n"
        "for number in (signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        f"run = lambda: subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
        "run()\n"
        "do_not_pass_on_ignored_signals()\n"
        "run()\n"
        "for number in (signal.SIGHUP, signal.SIGINT): signal.raise_signal(number)\n"
    )
    done = subprocess.run([sys.executable, "-c", suite], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[True, True]", "[False, False]"]
