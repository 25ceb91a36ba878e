"""What the package promises to its users: names, errors, and a light import."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import logos_client
from ipc_schema.errors import ErrorCode, IpcError
from logos_client import events, exceptions, kernel, kernel_events, messaging
from logos_client.exceptions import LogosError, from_ipc


def test_everything_exported_exists_and_is_documented() -> None:
    for module in (logos_client, events, exceptions, kernel, kernel_events, messaging):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            exported = getattr(module, name)
            if inspect.isclass(exported) or inspect.isfunction(exported):
                assert exported.__doc__, name


def test_all_that_its_modules_export_is_exported() -> None:
    for module in (events, exceptions, kernel, kernel_events, messaging):
        assert set(module.__all__) <= set(logos_client.__all__)


def test_public_methods_are_documented() -> None:
    for owner in (logos_client.MessagingClient, logos_client.KernelClient, logos_client.ControlClient):
        for name, member in inspect.getmembers(owner):
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{owner.__name__}.{name}"


def test_each_code_has_its_error() -> None:
    for code in ErrorCode:
        error = from_ipc(IpcError(code, "why", retry_after_ms=3, detail={"a": 1}))
        assert isinstance(error, LogosError)
        assert type(error) is not LogosError
        assert (error.code, error.message, error.retriable) == (code, "why", code.retriable)
        assert (error.retry_after_ms, error.detail) == (3, {"a": 1})
        assert str(error) == f"{code}: why"


def test_the_import_is_light_and_changes_nothing() -> None:
    """No event loop policy, no logging set up, nothing beyond pyzmq and msgpack."""
    program = """
import sys, logging, asyncio
policy = asyncio.get_event_loop_policy()
import logos_client
heavy = {"uvloop", "trio", "libp2p", "zmq.asyncio", "zmq.eventloop", "kernel_proc", "mapi_proc", "sqlite3"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert not logging.getLogger().handlers
assert asyncio.get_event_loop_policy() is policy
assert not [name for name in sys.modules if name.split(".")[0] in ("coincurve", "google", "multiaddr")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_what_an_app_does_not_need_comes_when_it_is_asked_for() -> None:
    program = """
import sys
from logos_client import MessagingClient, blocking
assert blocking.MessagingClient
half = {"logos_client.kernel", "ipc_schema.kernel.methods"}
assert not half & set(sys.modules)
for module in (sys.modules["logos_client"], blocking):
    assert "KernelClient" in dir(module)
    assert module.KernelClient is vars(module)["KernelClient"]
    assert not hasattr(module, "Kernelclient")
assert half <= set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    """Each class below its base, in a block that no line-wrapper joins."""
    depths: list[tuple[int, str]] = []
    for line in (exceptions.__doc__ or "").splitlines():
        found = re.match(r" {4}([│├└─ ]*)([A-Z]\w+Error)\b", line)
        if found:
            depths.append((len(found[1]) // 4, found[2]))
            assert len(line) <= 105
    assert {name for _, name in depths} == set(exceptions.__all__)
    parents: dict[int, str] = {}
    for depth, name in depths:
        parents[depth] = name
        if depth:
            assert parents[depth - 1] in {base.__name__ for base in getattr(exceptions, name).__bases__}, name
