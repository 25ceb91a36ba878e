"""What kernel and Messaging API import decides how much CPU their start takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVERS = {"fastapi", "uvicorn", "httptools", "websockets", "starlette", "pydantic", "prometheus_client"}
OTHERS = {"supervisor", "psycopg", "multiprocessing", "unittest"}


@pytest.mark.parametrize(
    ("module", "other_loop"), [("kernel_proc.node", "asyncio"), ("mapi_proc.service", "trio")]
)
def test_a_process_starts_without_heavy_modules(module: str, other_loop: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (SERVERS | OTHERS | {other_loop})
