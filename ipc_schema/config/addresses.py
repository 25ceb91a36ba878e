"""Checks of address texts: multiaddrs that this node can dial, entry nodes, ZeroMQ endpoints.

Only the text is judged here (no names are resolved): enough to refuse a typing error at start, by name,
instead of dialling it for ever.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final

from ipc_schema.paths import MAX_SOCKET_PATH

__all__ = [
    "check_endpoint",
    "check_enr",
    "check_enrtree",
    "check_entry_node",
    "check_multiaddr",
    "is_multiaddr",
    "peer_id_in",
]

_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.)*[A-Za-z0-9_-]{0,62}\.?")
# base58btc (no 0, O, I, l) of a multihash: secp256k1 and Ed25519 identities, SHA-256 of others
_PEER_ID: Final = re.compile(r"(16Uiu2HA|12D3Koo|Qm)[1-9A-HJ-NP-Za-km-z]{20,60}")
_PEER_ID_NAMES: Final = ("p2p", "ipfs")
_TRANSPORTS: Final = ((), ("ws",), ("wss",), ("tls", "ws"))


def is_multiaddr(text: str) -> bool:
    """Whether the text claims to be a multiaddr, as against `enrtree:` and `enr:`."""
    return text.startswith("/")


def _check_host(kind: str, host: str) -> None:
    if kind in ("ip4", "ip6"):
        try:
            address = ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IP address") from None
        if isinstance(address, IPv6Address) is not (kind == "ip6"):
            raise ValueError(f"{host!r} is not an /{kind} address")
    elif kind in ("dns", "dns4", "dns6"):
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host!r} is not a host name")
    else:
        raise ValueError(f"a multiaddr begins with /ip4, /ip6, /dns, /dns4 or /dns6, not /{kind}")


def peer_id_in(address: str) -> str | None:
    """The peer id at the end of a multiaddr; None: it has none."""
    parts = address.split("/")
    return parts[-1] or None if len(parts) > 2 and parts[-2] in _PEER_ID_NAMES else None


def check_multiaddr(text: str) -> None:
    """Accept `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/ws|/wss|/tls/ws][/p2p/<peer id>]`; `ValueError`."""
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not a multiaddr (it must start with a slash)")
    parts = text[1:].split("/")
    if len(parts) < 4:
        raise ValueError(f"{text!r} is not complete: /ip4/<address>/tcp/<port>[/p2p/<peer id>]")
    _check_host(parts[0], parts[1])
    if parts[2] != "tcp":
        raise ValueError(f"{text!r}: only tcp (and WebSocket over it) can be dialled, not {parts[2]!r}")
    if not re.fullmatch(r"[0-9]{1,5}", parts[3]) or not 0 < int(parts[3]) <= 65535:
        raise ValueError(f"{text!r}: {parts[3]!r} is not a port in 1..65535")
    rest = parts[4:]
    if len(rest) >= 2 and rest[-2] in _PEER_ID_NAMES:
        if not _PEER_ID.fullmatch(rest[-1]):
            raise ValueError(f"{text!r}: {rest[-1]!r} is not a peer id")
        rest = rest[:-2]
    if tuple(rest) not in _TRANSPORTS:
        raise ValueError(f"{text!r}: cannot dial /{'/'.join(rest)} over tcp")


def check_entry_node(text: str) -> None:
    """A multiaddr, a node record `enr:…`, or a signed list of nodes `enrtree://<key>@<domain>`."""
    if text.startswith("enrtree:"):
        check_enrtree(text)
    elif text.startswith("enr:"):
        check_enr(text)
    else:
        check_multiaddr(text)


def check_enr(text: str) -> None:
    """The form of a node record's text (EIP-778); its signature is for who has the cryptography."""
    if not re.fullmatch(r"enr:[A-Za-z0-9_-]{80,400}", text):
        raise ValueError(f"{text[:80]!r} is not a node record (enr: and base64url, 300 bytes at most)")


def check_enrtree(text: str) -> None:
    """The form of a URL of EIP-1459: the key (33 bytes in base32) and the domain."""
    match = re.fullmatch(r"enrtree://([A-Z2-7]{53})@(.+)", text)
    if match is None or not _HOST_NAME.fullmatch(match[2]) or "." not in match[2].rstrip("."):
        raise ValueError(f"{text[:120]!r} is not enrtree://<key, 53 characters in base32>@<domain>")


def check_endpoint(text: str) -> None:
    """A ZeroMQ endpoint: `ipc://<path>` (at most 107 bytes) or `tcp://<loopback address>:<port>`."""
    if text.startswith("ipc://"):
        path = text[len("ipc://") :]
        if not path or path.startswith("@"):
            raise ValueError(f"{text!r} has no path")
        if len(path.encode("utf-8", "replace")) > MAX_SOCKET_PATH:
            raise ValueError(f"the socket path is longer than {MAX_SOCKET_PATH} bytes: {path!r}")
        return
    match = re.fullmatch(r"tcp://(127\.[0-9.]+|\[::1\]|localhost):([0-9]{1,5})", text)
    if match is None:
        if text.startswith("tcp://"):
            raise ValueError(f"{text!r}: tcp is allowed on loopback only, with a port")
        raise ValueError(f"{text!r} is not an endpoint: ipc://<path> or tcp://127.0.0.1:<port>")
    if match[1].startswith("127"):
        _check_host("ip4", match[1])
    if not 0 < int(match[2]) <= 65535:
        raise ValueError(f"{text!r}: {match[2]} is not a port in 1..65535")
