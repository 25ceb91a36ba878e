"""Addresses as text: multiaddrs of TCP and WebSocket, entry nodes, ZeroMQ endpoints.

`parse_multiaddr` is the single parser of dialable addresses, for the configuration and for the host, so
that whatever the check accepts the host can use. Only the text is checked (no names are resolved): enough
to reject a typing error at start, by name, instead of dialling it for ever.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from ipc_schema.paths import MAX_SOCKET_PATH

_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.)*[A-Za-z0-9_-]{0,62}\.?")
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_MAX_PEER_ID: Final = 64
_PEER_ID_NAMES: Final = ("p2p", "ipfs")
_TRANSPORTS: Final = {(): "", ("ws",): "/ws", ("wss",): "/wss", ("tls", "ws"): "/wss"}
_UNSPOKEN: Final = frozenset(
    (
        *("dccp", "dnsaddr", "garlic32", "garlic64", "http", "http-path", "https", "ip6zone"),
        *("ipcidr", "memory", "noise", "onion", "onion3", "p2p-circuit", "p2p-stardust", "p2p-webrtc-direct"),
        *("p2p-webrtc-star", "p2p-websocket-star", "quic", "quic-v1", "sctp", "udp", "udt", "unix", "utp"),
        *("webrtc", "webrtc-direct", "webtransport"),
    )
)
"""Protocols of the multiaddr table that make an address undialable here."""
# Codes of the multiaddr table (github.com/multiformats/multicodec), as varints.
_CODES: Final = {"ip4": b"\x04", "ip6": b"\x29", "dns": b"\x35", "dns4": b"\x36", "dns6": b"\x37"}
_TCP: Final = b"\x06"
_P2P: Final = b"\xa5\x03"
_TRANSPORT_CODES: Final = {"": b"", "/ws": b"\xdd\x03", "/wss": b"\xde\x03"}
_TLS_SNI: Final = b"\xc0\x03\xc1\x03"


class UndialableError(ValueError):
    """A multiaddr that others may dial: its transport is not spoken here."""


class DialAddress(NamedTuple):
    """A multiaddr of TCP, or of WebSocket over TCP, plain or over TLS."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int
    transport: str
    """"" for plain TCP, "/ws" or "/wss"."""
    peer_id: str | None
    """base58."""
    server_name: str | None = None
    """The name for which the certificate must be valid, if it is not the host."""

    @property
    def place(self) -> str:
        """Return the text without the peer id."""
        secure = self.transport if self.server_name is None else f"/tls/sni/{self.server_name}/ws"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{secure}"

    def to_bytes(self) -> bytes:
        """Return the binary form, as identify and node records carry it."""
        host = ip_address(self.host).packed if self.kind in ("ip4", "ip6") else _name_bytes(self.host)
        if self.server_name is None:
            transport = _TRANSPORT_CODES[self.transport]
        else:
            transport = _TLS_SNI + _name_bytes(self.server_name) + _TRANSPORT_CODES["/ws"]
        raw = _CODES[self.kind] + host + _TCP + self.port.to_bytes(2, "big") + transport
        if self.peer_id is None:
            return raw
        digest = _decode_peer_id(self.peer_id)
        return raw + _P2P + _varint(len(digest)) + digest


def _varint(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80, value >> 7))


def _name_bytes(name: str) -> bytes:
    return _varint(len(name)) + name.encode()


def _decode_peer_id(text: str) -> bytes:
    """Return the multihash of a base58 peer id. Raises ValueError if it cannot be one.

    A key of up to 42 bytes is embedded as it is (identity multihash, code 0x00), a longer one as its
    SHA-256 (0x12), so a text that lost a character shows. Spec: libp2p/specs/peer-ids.
    """
    if not 0 < len(text) <= 2 * _MAX_PEER_ID:
        raise ValueError(f"{text[:100]!r} is not a peer id")
    number = 0
    for character in text:
        digit = _BASE58.find(character)
        if digit < 0:
            raise ValueError(f"{text[:100]!r} is not a peer id: {character!r} is not of base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(raw) < 3 or raw[0] not in (0x00, 0x12) or raw[1] != len(raw) - 2:
        raise ValueError(f"{text!r} is not a peer id: a character is missing or wrong")
    is_key = raw[0] == 0x00 and raw[2] == 0x08 and 36 <= len(raw) - 2 <= 42
    if not is_key and not (raw[0] == 0x12 and len(raw) == 34):
        raise ValueError(f"{text!r} is not a peer id: a character is missing or wrong")
    return raw


def is_multiaddr(text: str) -> bool:
    """Return whether the text is meant as a multiaddr, as opposed to `enrtree:` and `enr:`."""
    return text.startswith("/")


def _check_host(kind: str, host: str) -> None:
    if kind in ("ip4", "ip6"):
        try:
            address = ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is not an IP address") from None
        if "%" in host:
            raise ValueError(f"{host!r}: an address with a zone means nothing to other hosts")
        if isinstance(address, IPv6Address) is not (kind == "ip6"):
            raise ValueError(f"{host!r} is not an /{kind} address")
    elif kind in ("dns", "dns4", "dns6"):
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(f"{host!r} is not a host name")
    else:
        raise ValueError(f"a multiaddr begins with /ip4, /ip6, /dns, /dns4 or /dns6, not /{kind}")


def peer_id_in(address: str) -> str | None:
    """Return the peer id at the end of a multiaddr, or None."""
    parts = address.split("/")
    return parts[-1] or None if len(parts) > 2 and parts[-2] in _PEER_ID_NAMES else None


def parse_multiaddr(text: str) -> DialAddress:
    """Parse `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[<transport>][/p2p|ipfs/<peer id>]`, where <transport>
    is `/ws`, `/wss`, `/tls/ws` or `/tls/sni/<name>/ws`.

    Port 0 is for listening only. Raises UndialableError for other transports, ValueError.
    """
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not a multiaddr (it must start with a slash)")
    parts = text[1:].split("/")
    # The last names the transport best: quic-v1, not udp.
    other = next((part for part in reversed((parts[0], *parts[2:])) if part in _UNSPOKEN), None)
    if other is not None:
        raise UndialableError(f"{text[:300]!r}: {other} is not spoken here, only tcp and WebSocket over it")
    if len(parts) < 4:
        raise ValueError(f"{text!r} is not complete: /ip4/<address>/tcp/<port>[/p2p/<peer id>]")
    _check_host(parts[0], parts[1])
    if parts[2] != "tcp":
        raise ValueError(f"{text!r}: only tcp (and WebSocket over it) can be dialled, not {parts[2]!r}")
    if not re.fullmatch(r"[0-9]{1,5}", parts[3]) or int(parts[3]) > 65535:
        raise ValueError(f"{text!r}: {parts[3]!r} is not a port in 1..65535")
    rest = parts[4:]
    peer_id = None
    if len(rest) >= 2 and rest[-2] in _PEER_ID_NAMES:
        peer_id = rest[-1]
        try:
            _decode_peer_id(peer_id)
        except ValueError as error:
            raise ValueError(f"{text[:300]!r}: {error}") from None
        rest = rest[:-2]
    server_name = None
    if len(rest) == 4 and rest[:2] == ["tls", "sni"]:
        server_name = rest[2]
        _check_host("dns", server_name)
        rest = ["tls", rest[3]]
    transport = _TRANSPORTS.get(tuple(rest))
    if transport is None:
        raise ValueError(f"{text!r}: cannot dial /{'/'.join(rest)} over tcp")
    return DialAddress(parts[0], parts[1], int(parts[3]), transport, peer_id, server_name)


def split_circuit(address: str) -> tuple[str, str] | None:
    """Split `<relay>/p2p-circuit/p2p/<peer id>`, the address of a peer behind a relay, into the relay's
    address and the peer's id. Return None for any other address."""
    relay, circuit, peer_id = address.partition("/p2p-circuit/p2p/")
    if not circuit:
        return None
    try:
        _decode_peer_id(peer_id)
        return (relay, peer_id) if parse_multiaddr(relay).peer_id is not None else None
    except ValueError:
        return None


def can_dial(address: str) -> bool:
    """Return whether an address is one to dial: not malformed, and of a transport that is spoken here."""
    try:
        parse_multiaddr(address)
    except ValueError:
        return False
    return True


def check_multiaddr(text: str) -> None:
    """Check a multiaddr to dial. Raises ValueError."""
    if parse_multiaddr(text).port == 0:
        raise ValueError(f"{text!r}: '0' is not a port in 1..65535")


def check_peer_address(text: str) -> None:
    """Check a multiaddr of a peer, whose transport need not be one that is spoken here. Raises ValueError."""
    with suppress(UndialableError):
        check_multiaddr(text)


def check_entry_node(text: str) -> None:
    """Check an entry node: a multiaddr, a node record `enr:…`, or a signed node list
    `enrtree://<key>@<domain>`."""
    if text.startswith("enrtree:"):
        check_enrtree(text)
    elif text.startswith("enr:"):
        check_enr(text)
    else:
        check_peer_address(text)


def check_enr(text: str) -> None:
    """Check the form of a node record's text (EIP-778).

    Verifying its signature is left to code that has the cryptography.
    """
    if not re.fullmatch(r"enr:[A-Za-z0-9_-]{80,400}", text):
        raise ValueError(f"{text[:80]!r} is not a node record (enr: and base64url, 300 bytes at most)")


def check_enrtree(text: str) -> None:
    """Check the form of an EIP-1459 URL: the key (33 bytes in base32) and the domain."""
    match = re.fullmatch(r"enrtree://([A-Z2-7]{53})@(.+)", text)
    if match is None or not _HOST_NAME.fullmatch(match[2]) or "." not in match[2].rstrip("."):
        raise ValueError(f"{text[:120]!r} is not enrtree://<key, 53 characters in base32>@<domain>")


def check_endpoint(text: str) -> None:
    """Check a ZeroMQ endpoint: `ipc://<path>` (at most 107 bytes) or `tcp://<loopback address>:<port>`."""
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
