"""Messages between nodes that know who they are: packets, handshakes and sessions, without I/O.

Datagrams go in by `receive`, come out in `outbox`. Above it, messages are plaintext bytes that belong to a
contact: `Upward` is told what came and from whom. Nothing is repeated on a time-out (the specification
does not want it); whoever sends a request says when it is over (`finish`).

The course of a request without a session, and what each side keeps for it:

    we   ordinary packet of random bytes       _requests, _by_nonce
    they WHOAREYOU with its nonce              a challenge
    we   handshake packet with the request     new keys, not yet proven; other requests wait for them
    they the answer under the new keys         the keys are proven, waiting requests go out
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable
from typing import Final, Protocol

from kernel_proc.discovery.discv5 import packets
from kernel_proc.discovery.discv5.crypto import NONCE_BYTES, derive_keys, sign_proof, verify_proof
from kernel_proc.discovery.discv5.crypto import decrypt as decrypt_with
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, is_loopback
from kernel_proc.discovery.discv5.limits import LruDict, TokenBuckets
from kernel_proc.discovery.discv5.packets import Handshake, Ordinary, PacketError, Whoareyou
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.sessions import NONCE_RANDOM, Challenge, Challenges, Session
from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_identity import Identity

__all__ = ["Channel", "OutgoingPacket", "Upward"]

_RANDOM_MESSAGE: Final = 44
"""Bytes of the message that only asks for a WHOAREYOU: about the size of a PING."""


class Upward(Protocol):
    """Who uses the channel."""

    def known_record(self, node_id: bytes) -> Enr | None:
        """The newest record known of a node."""
        ...

    def message(self, contact: NodeContact, record: Enr, plaintext: bytes, now: float) -> None:
        """A message of the node of `record`, which has proven to be at this endpoint."""
        ...


class OutgoingPacket:
    """A request under way. Identity counts, not content."""

    __slots__ = ("contact", "generation", "handshaken", "nonce", "plaintext", "record")

    def __init__(self, contact: NodeContact, record: Enr, plaintext: bytes) -> None:
        self.contact = contact
        self.record = record
        self.plaintext = plaintext
        self.nonce: bytes | None = None
        """Of the packet it went out in last, also if that was a knock; None: it waits."""
        self.handshaken = False
        """It went out last as the answer to a WHOAREYOU."""
        self.generation = 0
        """Of the session's keys it went out under last; 0: none."""

    @property
    def opening(self) -> bool:
        """Whether a session hangs on it, so that others wait."""
        return self.nonce is not None and (self.handshaken or self.generation == 0)


class Channel:
    """The secured datagrams of one node.

    `outbox` fills with (endpoint, datagram); whoever calls empties it afterwards.
    """

    def __init__(
        self,
        identity: Identity,
        record: Callable[[], Enr],
        upward: Upward,
        params: Params,
        random: random_module.Random,
    ) -> None:
        """`record` gives our current record. `random` must be fit for keys (`random.SystemRandom`), except
        in tests."""
        self._identity = identity
        self._record = record
        self._upward = upward
        self._params = params
        self._random = random
        self._sessions: LruDict[NodeContact, Session] = LruDict(params.sessions)
        self._challenges = Challenges(params.challenges)
        self._requests: dict[NodeContact, list[OutgoingPacket]] = {}
        self._by_nonce: dict[bytes, OutgoingPacket] = {}
        self._per_host: TokenBuckets[str] = TokenBuckets(
            params.packets_per_second, params.packets_burst, params.rate_addresses
        )
        self._handshakes: TokenBuckets[None] = TokenBuckets(
            params.handshakes_per_second, params.handshakes_burst, 1
        )
        self.outbox: list[tuple[UdpEndpoint, bytes]] = []
        self.counters = {
            "packets_received": 0,
            "packets_sent": 0,
            "packets_malformed": 0,
            "packets_limited": 0,
            "whoareyou_sent": 0,
            "whoareyou_unexpected": 0,
            "handshakes_sent": 0,
            "handshakes_received": 0,
            "handshakes_refused": 0,
        }

    @property
    def sessions(self) -> int:
        """Sessions held."""
        return len(self._sessions)

    def _put(self, endpoint: UdpEndpoint, datagram: bytes) -> None:
        self.counters["packets_sent"] += 1
        self.outbox.append((endpoint, datagram))

    # -- sending ----------------------------------------------

    def request(self, contact: NodeContact, record: Enr, plaintext: bytes) -> OutgoingPacket:
        """Send a request to the node of `record`; a handshake goes before it where there is no session."""
        outgoing = OutgoingPacket(contact, record, plaintext)
        others = self._requests.setdefault(contact, [])
        session = self._sessions.get(contact)
        if session is not None and session.proven:
            self._send_in(session, outgoing)
        elif not any(other.opening for other in others):
            self._knock(outgoing)
        others.append(outgoing)
        return outgoing

    def respond(self, contact: NodeContact, plaintext: bytes) -> None:
        """Send the response to a request of the contact, in the session that the request came in."""
        session = self._sessions.get(contact)
        if session is not None:
            self._put(contact.endpoint, self._sealed(session, contact, plaintext)[1])

    def finish(self, outgoing: OutgoingPacket, *, answered: bool) -> None:
        """The request is over. If it was the one that opens a session and had no answer, the next one
        that waits tries."""
        self._forget_nonce(outgoing)
        others = self._requests.get(outgoing.contact)
        if others is None or outgoing not in others:
            return
        others.remove(outgoing)
        if not others:
            del self._requests[outgoing.contact]
        if answered or any(other.opening for other in others):
            return
        session = self._sessions.get(outgoing.contact)
        if session is None or not session.proven:
            self._sessions.pop(outgoing.contact)
            if others:
                self._knock(others[0])

    def _knock(self, outgoing: OutgoingPacket) -> None:
        """Send what cannot be decrypted, for a WHOAREYOU."""
        outgoing.generation, outgoing.handshaken = 0, False
        nonce = self._random.randbytes(NONCE_BYTES)
        header = self._ordinary_header(outgoing.contact, nonce)
        self._remember_nonce(outgoing, nonce)
        self._put(outgoing.contact.endpoint, header.masked + self._random.randbytes(_RANDOM_MESSAGE))

    def _send_in(self, session: Session, outgoing: OutgoingPacket) -> None:
        nonce, datagram = self._sealed(session, outgoing.contact, outgoing.plaintext)
        self._remember_nonce(outgoing, nonce)
        outgoing.generation = session.generation
        outgoing.handshaken = False
        self._put(outgoing.contact.endpoint, datagram)

    def _sealed(self, session: Session, contact: NodeContact, plaintext: bytes) -> tuple[bytes, bytes]:
        nonce = session.next_nonce(self._random.randbytes(NONCE_RANDOM))
        header = self._ordinary_header(contact, nonce)
        return nonce, header.masked + session.seal(nonce, plaintext, header.associated)

    def _ordinary_header(self, contact: NodeContact, nonce: bytes) -> packets.Header:
        return packets.ordinary_header(
            contact.node_id,
            self._identity.node_id,
            self._random.randbytes(packets.IV_BYTES),
            nonce,
            self._params.protocol_id,
        )

    def _remember_nonce(self, outgoing: OutgoingPacket, nonce: bytes) -> None:
        self._forget_nonce(outgoing)
        outgoing.nonce = nonce
        self._by_nonce[nonce] = outgoing

    def _forget_nonce(self, outgoing: OutgoingPacket) -> None:
        if outgoing.nonce is not None:
            self._by_nonce.pop(outgoing.nonce, None)

    # -- receiving --------------------------------------------

    def receive(self, datagram: bytes, source: UdpEndpoint, now: float) -> None:
        """Take a datagram. Never raises: what is not for us is counted."""
        self.counters["packets_received"] += 1
        exempt = self._params.exempt_loopback and is_loopback(source.host)
        if not exempt and not self._per_host.allow(source.host, now):
            self.counters["packets_limited"] += 1
            return
        try:
            packet = packets.decode(datagram, self._identity.node_id, self._params.protocol_id)
        except PacketError:
            self.counters["packets_malformed"] += 1
            return
        match packet:
            case Ordinary():
                self._ordinary(packet, NodeContact(packet.source, source), now)
            case Whoareyou():
                self._whoareyou(packet, source)
            case Handshake():
                self._handshake(packet, NodeContact(packet.source, source), now)

    def _ordinary(self, packet: Ordinary, contact: NodeContact, now: float) -> None:
        if contact.node_id == self._identity.node_id:
            self.counters["packets_malformed"] += 1
            return
        session = self._sessions.get(contact)
        plaintext = None
        if session is not None:
            fresh = not session.proven
            plaintext = session.open(packet.nonce, packet.ciphertext, packet.associated)
        if session is None or plaintext is None:
            self._challenge(packet.nonce, contact, now)
            return
        if fresh:
            self._send_waiting(contact, session)
        self._upward.message(contact, session.record, plaintext, now)

    def _challenge(self, nonce: bytes, contact: NodeContact, now: float) -> None:
        record = self._upward.known_record(contact.node_id)
        session = self._sessions.get(contact)
        if session is not None and (record is None or record.seq < session.record.seq):
            record = session.record
        header = packets.whoareyou_header(
            contact.node_id,
            self._random.randbytes(packets.IV_BYTES),
            nonce,
            self._random.randbytes(packets.ID_NONCE_BYTES),
            0 if record is None else record.seq,
            self._params.protocol_id,
        )
        expires = now + self._params.challenge_timeout
        self._challenges.add(contact, Challenge(header.associated, record, expires))
        self.counters["whoareyou_sent"] += 1
        self._put(contact.endpoint, header.masked)

    def _whoareyou(self, packet: Whoareyou, source: UdpEndpoint) -> None:
        outgoing = self._by_nonce.get(packet.nonce)
        if outgoing is None or outgoing.contact.endpoint != source or outgoing.handshaken:
            self.counters["whoareyou_unexpected"] += 1
            return
        contact, me = outgoing.contact, self._identity
        session = self._sessions.get(contact)
        others = self._requests[contact]
        if session is not None and not session.proven and any(other.handshaken for other in others):
            # Several requests were under way when the other node lost its keys. One handshake is enough, and
            # most nodes accept only one; this request waits for its end.
            self._forget_nonce(outgoing)
            outgoing.nonce, outgoing.generation = None, 0
            return
        ephemeral = self._ephemeral()
        keys = derive_keys(
            ephemeral.ecdh(outgoing.record.public_key), me.node_id, contact.node_id, packet.challenge_data
        )
        if session is None:
            session = Session(keys.initiator, keys.recipient, outgoing.record, proven=False)
            self._sessions.put(contact, session)
        else:
            session.rekey(keys.initiator, keys.recipient, outgoing.record, proven=False)
        record = self._record()
        nonce = session.next_nonce(self._random.randbytes(NONCE_RANDOM))
        header = packets.handshake_header(
            contact.node_id,
            me.node_id,
            self._random.randbytes(packets.IV_BYTES),
            nonce,
            sign_proof(me, packet.challenge_data, ephemeral.public_key, contact.node_id),
            ephemeral.public_key,
            # A number above ours comes from a record of before our memory was lost; they need the new one.
            b"" if packet.record_seq == record.seq else record.raw,
            self._params.protocol_id,
        )
        self._remember_nonce(outgoing, nonce)
        outgoing.handshaken = True
        outgoing.generation = session.generation
        self.counters["handshakes_sent"] += 1
        self._put(
            contact.endpoint, header.masked + session.seal(nonce, outgoing.plaintext, header.associated)
        )

    def _ephemeral(self) -> Identity:
        while True:
            try:
                return Identity(self._random.randbytes(32))
            except ValueError:
                continue  # zero or beyond the group order: once in 2**128 draws

    def _handshake(self, packet: Handshake, contact: NodeContact, now: float) -> None:
        challenges = self._challenges.of(contact, now)
        if not challenges or not self._handshakes.allow(None, now):
            self.counters["handshakes_refused"] += 1
            return
        for challenge in challenges:
            accepted = self._accept(packet, contact, challenge)
            if accepted is not None:
                break
        else:
            self.counters["handshakes_refused"] += 1
            return
        session, message = accepted
        self._challenges.discard(contact)
        self.counters["handshakes_received"] += 1
        self._send_waiting(contact, session)
        self._upward.message(contact, session.record, message, now)

    def _accept(
        self, packet: Handshake, contact: NodeContact, challenge: Challenge
    ) -> tuple[Session, bytes] | None:
        """The new session and the message, if the handshake answers the challenge."""
        record = challenge.record
        if packet.record:
            try:
                told = Enr.from_bytes(packet.record)
            except EnrError:
                return None
            if record is None or told.seq > record.seq:
                record = told
        me = self._identity
        if record is None or record.node_id != contact.node_id:
            return None
        if not verify_proof(
            record.public_key, packet.signature, challenge.data, packet.ephemeral_key, me.node_id
        ):
            return None
        try:
            secret = me.ecdh(packet.ephemeral_key)
        except ValueError:
            return None
        keys = derive_keys(secret, contact.node_id, me.node_id, challenge.data)
        message = decrypt_with(keys.initiator, packet.nonce, packet.ciphertext, packet.associated)
        if message is None:
            return None
        session = self._sessions.get(contact)
        if session is None:
            session = Session(keys.recipient, keys.initiator, record, proven=True)
            self._sessions.put(contact, session)
        else:
            session.rekey(keys.recipient, keys.initiator, record, proven=True)
        return session, message

    def _send_waiting(self, contact: NodeContact, session: Session) -> None:
        """The session can be used: what was not sent yet, only to knock, or under keys that the other node
        has lost, goes out."""
        for outgoing in list(self._requests.get(contact, ())):
            if not outgoing.handshaken and outgoing.generation != session.generation:
                self._send_in(session, outgoing)
