"""Notifications to systemd over its socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from logos_process.service_manager import ServiceManager
from tests.support.kernel_process import short_directory


@pytest.fixture(params=["path", "abstract"])
def notify(request: pytest.FixtureRequest) -> Iterator[tuple[str, socket.socket]]:
    with short_directory() as directory, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as one:
        name = f"{directory}/notify"
        one.bind(name if request.param == "path" else f"\0{name}")
        one.settimeout(5)
        yield (name if request.param == "path" else f"@{name}"), one


def test_it_is_notified_and_the_children_are_not_asked_to(notify: tuple[str, socket.socket]) -> None:
    name, listening = notify
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "6000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    manager = ServiceManager.take(environ)
    assert environ == {"A": "b"}
    assert manager.interval == 3.0
    manager.ready("all is well")
    manager.alive()
    manager.stopping()
    manager.stopping()
    manager.alive()
    said = [listening.recv(256) for _ in range(4)]
    assert said == [b"READY=1\nSTATUS=all is well", b"WATCHDOG=1", b"STOPPING=1", b"WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "6000000"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "6000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "soon"},
    ],
)
def test_without_a_service_manager_nothing_happens(environ: dict[str, str]) -> None:
    manager = ServiceManager.take(environ)
    assert manager.interval is None
    manager.ready()
    manager.stopping()
