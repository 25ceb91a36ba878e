"""The clients in blocking form, for scripts and for programs with threads: the same names and meanings as in
`logos_client`, without `async` and `await`.

    with MessagingClient.connect(run_dir, name="weather") as client:
        client.subscribe("/weather/1/berlin/json")
        client.send("/weather/1/berlin/json", b'{"celsius": 21}')
        for event in client:
            print(event)

**Threads.** Each client has a thread of its own for its connection. Every method may be called from any
thread, and concurrently. Events have one consumer at a time: a second thread that asks for the next event
while the first waits gets a RuntimeError. Callbacks run one after another in another thread of the
client's; they may call everything except the wait for an event.

**Forks.** A client belongs to the process that created it. In a forked child every call raises
`ForkedError` at once and `close` does nothing; the parent's client continues undisturbed. The child may
connect clients of its own.

**Ctrl-C and exit.** While a call waits, KeyboardInterrupt is raised as usual: the request is abandoned (its
outcome is then unknown), an event is not lost. Clients that a program leaves open are closed at its exit,
within three seconds. A client that is garbage-collected is closed, with a ResourceWarning.

Events, errors and all other types are those of `logos_client`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from logos_client.blocking.control import ControlClient
from logos_client.blocking.messaging import MessagingClient

if TYPE_CHECKING:
    from logos_client.blocking.kernel import KernelClient, KernelFeed
else:
    # When it is asked for: see `logos_client`.
    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module("logos_client.blocking.kernel"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = ["ControlClient", "KernelClient", "KernelFeed", "MessagingClient"]
