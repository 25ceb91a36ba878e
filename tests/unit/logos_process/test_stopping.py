"""Stop signals, and the bound on how long an end may take."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from logos_process.exits import ExitCode
from logos_process.stopping import StopLimit, stop_signals

HANG = """
import {module}
from logos_process import logs
from logos_process.stopping import StopLimit
logs.configure("x", "INFO")
StopLimit(0.1).start()
def hang_here():
    {hang}
hang_here()
"""


@pytest.mark.parametrize(
    ("module", "hang"),
    [
        ("time", "time.sleep(60)"),
        ("signal", "signal.pthread_sigmask(signal.SIG_BLOCK, [14]); signal.pause()"),
    ],
)
def test_an_end_that_hangs_is_cut_off_and_says_where(module: str, hang: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANG.format(module=module, hang=hang)],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.returncode == ExitCode.FAILED
    assert "stopping took more than 0.1 s" in done.stderr
    assert "in hang_here" in done.stderr


def test_an_end_in_time_is_left_alone() -> None:
    def counting() -> int:
        return sum(thread.name == "stop limit" for thread in threading.enumerate())

    limit = StopLimit(60)
    limit.start()
    limit.start()
    assert counting() == 1
    limit.over()
    limit._thread.join(30)
    assert counting() == 0


def test_a_closed_terminal_asks_for_the_end_unless_nohup_said_otherwise() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert set(stop_signals()) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert set(stop_signals()) == {signal.SIGTERM, signal.SIGINT}
    finally:
        signal.signal(signal.SIGHUP, before)
