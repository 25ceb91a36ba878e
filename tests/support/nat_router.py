"""A real router with miniupnpd (UPnP and NAT-PMP), in a place of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.places import Router

_TABLE: Final = """
table inet upnp {
    chain forwarded { }
    chain mapped { }
    chain left { }
    chain forward { type filter hook forward priority 10; policy accept; jump forwarded; }
    chain prerouting { type nat hook prerouting priority -100; policy accept; jump mapped; }
    chain postrouting { type nat hook postrouting priority 90; policy accept; jump left; }
}
"""
_CONFIG: Final = """
ext_ifname={wan}
listening_ip=lan
port=0
enable_upnp={upnp}
enable_natpmp={pmp}
secure_mode=yes
uuid=00000000-0000-0000-0000-000000000001
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=forwarded
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=left
allow 1024-65535 {inside}/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


@contextmanager
def miniupnpd(router: Router, directory: Path, *, upnp: bool = True, pmp: bool = True) -> Iterator[None]:
    """The server runs on `router` while the block does, with mappings that begin empty."""
    router.run("nft", f"add table inet upnp; delete table inet upnp; {_TABLE}")
    config = directory / "miniupnpd.conf"
    words = {True: "yes", False: "no"}
    config.write_text(_CONFIG.format(wan=router.wan, inside=router.inside, upnp=words[upnp], pmp=words[pmp]))
    command = [*router.through, "miniupnpd", "-d", "-f", str(config), "-P", str(directory / "miniupnpd.pid")]
    with (directory / "miniupnpd.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait(10)


def mappings(router: Router) -> str:
    """What the router forwards, as rules of nft."""
    done = subprocess.run(
        [*router.through, "nft", "list", "chain", "inet", "upnp", "mapped"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
