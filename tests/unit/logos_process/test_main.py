"""From a command line to an exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from logos_process.exits import ExitCode

PROGRAM = """
import sys, os, time, signal
from ipc_schema.config.kernel import KERNEL_SCHEMA, load_kernel_config
from logos_process.exits import ExitCode, StartError
from logos_process.main import Process, run_process

def run(config, limit):
    {body}
    return ExitCode.OK

sys.exit(run_process(Process(
    program="logos-x", description="A process.", package="x", schema=KERNEL_SCHEMA, load=load_kernel_config,
    run=run, stop_seconds=0.2,
)))
"""


def ended(body: str, *arguments: str) -> tuple[int, str]:
    """The exit code of a process with this body, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", ExitCode.OK, ""),
        ("return ExitCode.FAILED", ExitCode.FAILED, ""),
        ("raise StartError('data-dir: no')", ExitCode.CONFIG, "logos-x: data-dir: no\n"),
        ("raise StartError('in use', ExitCode.FAILED)", ExitCode.FAILED, "logos-x: in use\n"),
        ("raise StartError.of('f', OSError(28, 'No space'))", ExitCode.FAILED, "logos-x: f: No space\n"),
        ("raise StartError.of('f', OSError(13, 'No right'))", ExitCode.CONFIG, "logos-x: f: No right\n"),
    ],
)
def test_exit_codes(body: str, code: int, said: str) -> None:
    assert ended(body) == (code, said)


def test_too_few_open_files_are_said_at_the_start() -> None:
    """A process that goes on would say that it is ready, and refuse every client."""
    few = ["prlimit", "--nofile=255:255", sys.executable, "-c", PROGRAM.format(body="pass")]
    done = subprocess.run(few, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr.startswith("logos-x: at most 255 open files, 256 are needed"), done.stderr


@pytest.mark.parametrize(
    "error", ["OSError(13, 'x')", "RuntimeError('x')", "ExceptionGroup('g', [OSError()])"]
)
def test_errors_at_run_time_are_not_configuration_errors(error: str) -> None:
    code, said = ended(f"limit.start(); raise {error}")
    assert code == ExitCode.FAILED
    assert " FAT failed logger=" in said
    assert "Traceback" in said, "for the one who mends it"


def test_an_end_that_hangs_is_cut_off() -> None:
    code, said = ended("limit.start(); time.sleep(60)")
    assert code == ExitCode.FAILED
    assert "stopping took more than 0.2 s" in said


def test_a_refused_configuration_is_one_line() -> None:
    code, said = ended("pass", "--tcp-port=many")
    assert code == ExitCode.CONFIG
    assert said.startswith("logos-x: tcp-port: ")
    assert said.count("\n") == 1


def test_warnings_of_the_configuration_are_logged() -> None:
    code, said = ended("pass", "--websocket-port=1")
    assert code == ExitCode.OK
    assert "WRN websocket-port has no effect" in said
