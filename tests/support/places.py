"""Places with addresses of their own, for kernels that are to see each other as strangers do.

A place is a network namespace; all are joined by one bridge, in a namespace that leads nowhere else, so any
address can be used. Files and Unix sockets are those of the host: a kernel in a place is asked as any other.
No privileges are needed, but a host may forbid it.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ["Places", "PlacesError", "places"]

_TOOLS: Final = ("unshare", "nsenter", "ip")
_HOLDER: Final = ("sleep", "infinity")
_SECONDS: Final = 5.0
_PRIVATE: Final = "10.0.0.0/8"
_PROBE: Final = "192.0.2.1"
"""Whoever asks the system for its main address asks by what address it would reach this one."""


class PlacesError(Exception):
    """This host does not permit it."""


class Places:
    """Made by `places`."""

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []
        for tool in _TOOLS:
            if shutil.which(tool) is None:
                raise PlacesError(f"there is no command {tool}")
        try:
            self._bridge = self._namespace("unshare", "-rn")
            self._run(self._bridge, "link", "add", "middle", "type", "bridge")
            self._run(self._bridge, "link", "set", "middle", "up")
        except BaseException:
            self.close()
            raise

    def add(self, address: str, *, seen_as: str | None = None) -> tuple[str, ...]:
        """A place at an IPv4 address; what runs a command there. `seen_as`: the address at which others see
        it, as behind a router that hands everything on; they reach it there, and not at one of 10.0.0.0/8.
        """
        place = self._namespace(*self._inside(self._bridge), "unshare", "-n")
        number = len(self._holders)
        names = f"m{number}", f"e{number}"
        pair = ("link", "add", names[0], "type", "veth", "peer", "name", names[1], "netns", str(place))
        self._run(self._bridge, *pair)
        self._run(self._bridge, "link", "set", names[0], "master", "middle", "up")
        self._run(place, "link", "set", "lo", "up")
        for one in filter(None, (address, seen_as)):
            self._run(place, "address", "add", f"{one}/32", "dev", names[1])
        self._run(place, "link", "set", names[1], "up")
        outside = seen_as or address
        self._run(place, "route", "add", "default", "dev", names[1], "scope", "link", "src", outside)
        self._run(place, "route", "add", "unreachable", _PRIVATE)
        if seen_as is not None:
            self._run(place, "route", "add", f"{_PROBE}/32", "dev", names[1], "scope", "link", "src", address)
        return self._inside(place)

    def close(self) -> None:
        """The namespaces end with the last process in them."""
        for holder in self._holders:
            holder.kill()
            holder.wait(_SECONDS)

    def _namespace(self, *command: str) -> int:
        """A process in a new network namespace, which `command` makes and runs its arguments in; its id."""
        holder = subprocess.Popen([*command, *_HOLDER], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._holders.append(holder)
        assert holder.stderr is not None
        end = time.monotonic() + _SECONDS
        with holder.stderr:
            while time.monotonic() < end:
                if holder.poll() is not None:
                    raise PlacesError(holder.stderr.read().decode(errors="replace").strip())
                if Path(f"/proc/{holder.pid}/comm").read_text() == f"{_HOLDER[0]}\n":
                    return holder.pid
                time.sleep(0.01)
        raise PlacesError("no namespace was made in time")

    @staticmethod
    def _inside(pid: int) -> tuple[str, ...]:
        return ("nsenter", "--target", str(pid), "--user", "--net", "--preserve-credentials")

    def _run(self, pid: int, *arguments: str) -> None:
        done = subprocess.run([*self._inside(pid), "ip", *arguments], capture_output=True, check=False)
        if done.returncode:
            raise PlacesError(f"ip {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")


@contextmanager
def places() -> Iterator[Places]:
    """Raises PlacesError where the host does not permit it."""
    made = Places()
    try:
        yield made
    finally:
        made.close()
