"""The blocking clients in a process of their own: forks, Ctrl-C, the end of the program.

Each program runs in development mode with all warnings as errors: what it prints to stderr is a fault.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Self

import pytest

from logos_client.blocking._portal import EXIT_SECONDS
from tests.support.dev_mode import complaints
from tests.unit.logos_client.mapi import MiniMapi
from tests.unit.logos_client.server_thread import Served, served
from tests.unit.logos_client.support import short_directory

PROLOGUE = """
import asyncio, os, signal, sys, threading, time
from logos_client import *
from logos_client import blocking
endpoint = sys.argv[1]
TOPIC = "/a/1/b/c"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored

def child(work):
    "Fork; the child's exit code is 0 when work() returned, 1 after an exception, 9 after a minute."
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def raises(kind, function, *arguments, **named):
    try:
        function(*arguments, **named)
    except kind as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"{function} did not raise {kind}")
"""


@pytest.fixture
def mapi() -> Iterator[Served[MiniMapi]]:
    with short_directory() as directory, served(lambda: MiniMapi(directory / "apps")) as server:
        yield server


class Program:
    """A program that talks to the server. Its end is awaited whatever happens."""

    def __init__(self, mapi: Served[MiniMapi], text: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", PROLOGUE + text, mapi.endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        """The next line that it prints; empty when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def finish(self, code: int = 0, seconds: float = 80.0) -> None:
        """It ends in time, as expected, and says nothing to stderr."""
        _, errors = self._process.communicate(timeout=seconds)
        assert (self._process.returncode, complaints(errors)) == (code, []), errors


def run(mapi: Served[MiniMapi], text: str) -> None:
    """To a good end."""
    with Program(mapi, text) as program:
        program.finish()


# -- forks -------------------------------------------------------------------------------------------------


def test_after_a_fork_every_call_is_refused_and_the_parent_goes_on(mapi: Served[MiniMapi]) -> None:
    run(
        mapi,
        """
client = blocking.MessagingClient.connect(endpoint, name="app")
client.on(ConnectionStatusChange, print)
raises(DeadlineError, client.next_event, 0.01)

def work():
    error = raises(ForkedError, client.send, TOPIC, b"x")
    assert str(os.getppid()) in str(error) and "fork" in str(error), error
    raises(ForkedError, client.next_event, 0.1)
    raises(ForkedError, next, client)
    raises(ForkedError, client.status)
    raises(ForkedError, client.on, MessageReceived, print)
    assert not client.connected
    assert isinstance(error, ClosedError)
    client.close()
    with client:
        pass

for _ in range(3):
    assert child(work) == 0
    client.send(TOPIC, b"parent")
    assert client.status().connection == "Connected"
client.close()
""",
    )
    assert "goodbye" in mapi.do(lambda server: server.methods())


def test_a_child_may_connect_again_and_end_as_it_likes(mapi: Served[MiniMapi]) -> None:
    """The parent's client is collected, or left over at the end of the interpreter: no word, no harm."""
    run(
        mapi,
        """
client = blocking.MessagingClient.connect(endpoint, name="parent")

def use_own():
    with blocking.MessagingClient.connect(endpoint, name="child", timeout=4) as own:
        own.send(TOPIC, b"child")

def drop():
    global client
    del client
    import gc; gc.collect()

for work in (use_own, drop):
    assert child(work) == 0

pid = os.fork()
if pid == 0:
    sys.exit(5)  # a whole interpreter's end, with the parent's client open
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5

import multiprocessing
process = multiprocessing.get_context("fork").Process(target=use_own)
process.start(); process.join(10)
assert process.exitcode == 0
client.send(TOPIC, b"parent")
""",
    )
    assert mapi.do(lambda server: server.apps["parent"].identity) is None
    assert mapi.do(lambda server: server.methods().count("goodbye")) == 3


def test_the_asyncio_clients_are_refused_after_a_fork_too(mapi: Served[MiniMapi]) -> None:
    run(
        mapi,
        """
async def main():
    async with MessagingClient.connect(endpoint) as client, ControlClient.connect(endpoint) as control:
        def work():
            for call in (client.send(TOPIC, b"x"), client.next_event(), control.health()):
                try:
                    call.send(None)
                except ForkedError as error:
                    assert str(os.getppid()) in str(error)
                else:
                    raise AssertionError(call)
            for call in (client.close(), control.close()):
                raises(StopIteration, call.send, None)
        assert child(work) == 0
        await client.send(TOPIC, b"parent")

asyncio.run(main())
""",
    )


# -- Ctrl-C ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["client.next_event()", "next(client)", "client.status(timeout=60)"])
def test_ctrl_c_ends_a_wait_and_the_client_goes_on(mapi: Served[MiniMapi], call: str) -> None:
    mapi.do(lambda server: server.handlers.update({"status": lambda _identity, _request: None}))
    text = f"""
client = blocking.MessagingClient.connect(endpoint, name="app")
try:
    print("waiting", flush=True)
    {call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
event = client.next_event(10)
assert event.payload == b"after", event
client.close()
"""
    with Program(mapi, text) as program:
        assert program.line() == "waiting"
        program.interrupt()
        assert program.line() == "interrupted"
        mapi.do(lambda server: server.message(server.only_app(), b"after"))
        program.finish()


def test_ctrl_c_while_connecting_leaves_nothing(mapi: Served[MiniMapi]) -> None:
    text = """
try:
    print("waiting", flush=True)
    blocking.MessagingClient.connect("ipc:///nothing/here", timeout=None)
except KeyboardInterrupt:
    pass
deadline = time.monotonic() + 5
while threading.active_count() > 1 and time.monotonic() < deadline:
    time.sleep(0.01)
assert threading.active_count() == 1, threading.enumerate()
"""
    with Program(mapi, text) as program:
        assert program.line() == "waiting"
        program.interrupt()
        program.finish()


# -- the end of the program --------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", -2)])
def test_a_program_may_end_with_its_clients_open(mapi: Served[MiniMapi], end: str, code: int) -> None:
    """It says goodbye, acknowledges what was handled, and prints nothing."""
    text = f"""
sys.excepthook = lambda *_: None
client = blocking.MessagingClient.connect(endpoint, name="app")
other = blocking.MessagingClient.connect(endpoint, name="other")
other.on(MessageReceived, print)
threading.Thread(target=lambda: list(other), daemon=True).start()
print("ready", flush=True)
client.next_event(10)
raises(DeadlineError, client.next_event, 0.01)
{end}
"""
    with Program(mapi, text) as program:
        assert program.line() == "ready"
        mapi.do(lambda server: server.message(server.apps["app"], b"1"))
        program.finish(code)
    assert mapi.do(lambda server: server.methods().count("goodbye")) == 2
    assert mapi.do(lambda server: server.apps["app"].acked) == 1


def test_a_program_ends_in_time_without_an_answer(mapi: Served[MiniMapi]) -> None:
    """All clients together wait no longer than one."""
    mapi.do(lambda server: server.handlers.update({"goodbye": lambda _identity, _request: None}))
    text = """
clients = [blocking.MessagingClient.connect(endpoint) for _ in range(8)]
print("ready", flush=True)
"""
    with Program(mapi, text) as program:
        assert program.line() == "ready"
        program.finish(seconds=EXIT_SECONDS + 3)


def test_a_callback_that_never_returns_does_not_keep_the_program(mapi: Served[MiniMapi]) -> None:
    text = """
client = blocking.MessagingClient.connect(endpoint, name="app")
stuck = threading.Event()
client.on(MessageReceived, lambda event: (stuck.set(), threading.Event().wait()))
print("ready", flush=True)
assert stuck.wait(10)
"""
    with Program(mapi, text) as program:
        assert program.line() == "ready"
        mapi.do(lambda server: server.message(server.only_app(), b"1"))
        program.finish()
