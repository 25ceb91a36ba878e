"""A DNS server on loopback for tests, and signed lists of nodes to put on it."""

from __future__ import annotations

import socket
import threading
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager

import coincurve
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from kernel_proc.discovery.dns_tree import hash_of
from kernel_proc.discovery.enr_identity import keccak256

UDP_BYTES = 1232


class SignedList:
    """The names and texts of one list."""

    def __init__(self, domain: str, secret: bytes = b"\x07" * 32) -> None:
        self.domain = domain
        self._key = coincurve.PrivateKey(secret)
        self.zone: dict[str, str] = {}

    @property
    def url(self) -> str:
        key = b32encode(self._key.public_key.format()).rstrip(b"=").decode()
        return f"enrtree://{key}@{self.domain}"

    def entry(self, text: str) -> str:
        """Put an entry there; returns its name."""
        name = hash_of(text)
        self.zone[f"{name}.{self.domain}"] = text
        return name

    def branch(self, texts: Iterable[str], width: int = 4) -> str:
        """Put entries there below as many branches as they need; returns the name of the top."""
        names = [self.entry(text) for text in texts]
        while True:
            groups = [names[at : at + width] for at in range(0, len(names), width)] or [[]]
            names = [self.entry("enrtree-branch:" + ",".join(group)) for group in groups]
            if len(names) == 1:
                return names[0]

    def root(self, nodes: str, links: str | None = None, seq: int = 1) -> str:
        """Sign a root and put it there."""
        top = links or self.branch([])
        signed = f"enrtree-root:v1 e={nodes} l={top} seq={seq}"
        signature = self._key.sign_recoverable(keccak256(signed.encode()), hasher=None)
        text = f"{signed} sig={urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        self.zone[self.domain] = text
        return text


def _two_sockets() -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on one port, which must be free for both."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()


class DnsServer:
    """Answers TXT queries from `zone` (name without the last dot, lower case, to text); UDP and TCP."""

    def __init__(self) -> None:
        self.zone: MutableMapping[str, str] = {}
        self.asked: list[str] = []
        self.silent = False
        self.tcp_answers = 0
        self._udp, self._tcp = _two_sockets()
        self.port: int = self._udp.getsockname()[1]
        self._stopping = False
        self._threads = [threading.Thread(target=run) for run in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def publish(self, *lists: SignedList) -> None:
        for one in lists:
            self.zone.update({name.lower(): text for name, text in one.zone.items()})

    def close(self) -> None:
        self._stopping = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as poke:
            poke.sendto(b"", ("127.0.0.1", self.port))
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            data, sender = self._udp.recvfrom(4096)
            if self._stopping:
                return
            answer = None if self.silent or not data else self._answer(data, UDP_BYTES)
            if answer is not None:
                self._udp.sendto(answer, sender)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            with connection:
                if self._stopping:
                    return
                data = connection.recv(4096)
                answer = self._answer(data[2:], 65535) if len(data) > 2 else None
                if answer is not None:
                    self.tcp_answers += 1
                    connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, data: bytes, limit: int) -> bytes | None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        self.asked.append(name)
        answer = dns.message.make_response(query)
        text = self.zone.get(name.lower())
        if text is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            # Strings of a TXT record have 255 bytes at most.
            parts = " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200)) or '""'
            answer.answer.append(
                dns.rrset.from_text(query.question[0].name, 60, dns.rdataclass.IN, dns.rdatatype.TXT, parts)
            )
        wire = answer.to_wire(max_size=65535)
        if len(wire) > limit:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            wire = answer.to_wire()
        return wire


@contextmanager
def dns_server(*lists: SignedList, zone: Mapping[str, str] | None = None) -> Iterator[DnsServer]:
    server = DnsServer()
    server.publish(*lists)
    server.zone.update(zone or {})
    try:
        yield server
    finally:
        server.close()
