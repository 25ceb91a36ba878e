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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_TOOLS: Final = ("unshare", "nsenter", "ip")
_HOLDER: Final = ("sleep", "infinity")
_SECONDS: Final = 5.0
_PRIVATE: Final = "10.0.0.0/8"
_LAN: Final = "lan"
_RULES: Final = """
table inet router {{
    chain forward {{ type filter hook forward priority 0; policy accept;
        iifname "{wan}" ct state established,related accept
        iifname "{wan}" ct status dnat accept
        iifname "{wan}" drop
    }}
    chain postrouting {{ type nat hook postrouting priority 100; policy accept;
        oifname "{wan}" masquerade
    }}
}}
"""
_PROBE: Final = "192.0.2.1"
"""The main address of the system is found by asking from which address it would reach this one."""


class PlacesError(Exception):
    """This host does not permit it."""


@dataclass(frozen=True)
class Router:
    """Made by `Places.add_router`."""

    through: tuple[str, ...]
    """What runs a command there."""
    pid: int
    wan: str
    """Its device outside; the one inside is `lan`."""
    inside: str

    def run(self, *command: str) -> None:
        """Raises PlacesError."""
        done = subprocess.run([*self.through, *command], capture_output=True, check=False)
        if done.returncode:
            raise PlacesError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")


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
        device = self._join(
            place, self._bridge, "middle", *(f"{one}/32" for one in (address, seen_as) if one)
        )
        outside = seen_as or address
        self._run(place, "route", "add", "default", "dev", device, "scope", "link", "src", outside)
        self._run(place, "route", "add", "unreachable", _PRIVATE)
        if seen_as is not None:
            self._run(place, "route", "add", f"{_PROBE}/32", "dev", device, "scope", "link", "src", address)
        return self._inside(place)

    def add_router(self, outside: str, inside: str) -> Router:
        """A router between the others, who see it at `outside`, and a network of its own, where it is
        `inside` and all others have addresses of the same /24. It masquerades, and lets no connection in.
        """
        place = self._namespace(*self._inside(self._bridge), "unshare", "-n")
        wan = self._join(place, self._bridge, "middle", f"{outside}/32")
        self._run(place, "route", "add", "default", "dev", wan, "scope", "link", "src", outside)
        self._run(place, "link", "add", _LAN, "type", "bridge")
        self._run(place, "address", "add", f"{inside}/24", "dev", _LAN)
        self._run(place, "link", "set", _LAN, "up")
        router = Router(self._inside(place), place, wan, inside)
        router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        router.run("nft", _RULES.format(wan=wan))
        return router

    def add_behind(self, router: Router, address: str) -> tuple[str, ...]:
        """A place in the network of a router; what runs a command there."""
        place = self._namespace(*self._inside(self._bridge), "unshare", "-n")
        self._join(place, router.pid, _LAN, f"{address}/24")
        self._run(place, "route", "add", "default", "via", router.inside)
        return self._inside(place)

    def close(self) -> None:
        """The namespaces end with the last process in them."""
        for holder in self._holders:
            holder.kill()
            holder.wait(_SECONDS)

    def _join(self, place: int, owner: int, bridge: str, *addresses: str) -> str:
        """Connect a place with a bridge of `owner`; the name of its device."""
        number = len(self._holders)
        ours, theirs = f"e{number}", f"m{number}"
        pair = ("link", "add", theirs, "type", "veth", "peer", "name", ours, "netns", str(place))
        self._run(owner, *pair)
        self._run(owner, "link", "set", theirs, "master", bridge, "up")
        self._run(place, "link", "set", "lo", "up")
        for address in addresses:
            self._run(place, "address", "add", address, "dev", ours)
        self._run(place, "link", "set", ours, "up")
        return ours

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
def places_or_skip() -> Iterator[Places]:
    """Skips the test where the host does not permit it."""
    try:
        made = Places()
    except PlacesError as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")
    try:
        yield made
    finally:
        made.close()
