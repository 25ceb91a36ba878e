"""Authenticated messages between nodes: packets, handshakes and sessions (discv5-theory), without I/O.

Datagrams enter through `receive` and leave through `outbox`. Above the channel, messages are plaintext of a
contact, reported to `Upward`. Nothing is retransmitted on a timeout (discv5-wire advises against it); the
sender of a request reports its end with `finish`.

A request without a session, and the state each side keeps (discv5-theory, Session Handshake):

    we   ordinary packet of random bytes       _requests, _by_nonce
    they WHOAREYOU with its nonce              a challenge
    we   handshake packet with the request     new keys, not yet proven; further requests wait for them
    they the response under the new keys       the keys are proven; waiting requests are sent
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kernel_proc.discovery.discv5 import packets
from kernel_proc.discovery.discv5.crypto import NONCE_BYTES, derive_keys, sign_proof, verify_proof
from kernel_proc.discovery.discv5.crypto import decrypt as decrypt_with
from kernel_proc.discovery.discv5.endpoint import NodeContact, UdpEndpoint, is_loopback
from kernel_proc.discovery.discv5.packets import Handshake, Ordinary, PacketError, Whoareyou
from kernel_proc.discovery.discv5.params import Params
from kernel_proc.discovery.discv5.sessions import NONCE_RANDOM, Challenge, Challenges, Session
from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_identity import Identity
from kernel_proc.token_buckets import LruDict, TokenBuckets

_RANDOM_MESSAGE: Final = 44
"""Size of the message whose only purpose is to trigger a WHOAREYOU; about that of a PING."""


class Upward(Protocol):
    """The user of the channel."""

    def known_record(self, node_id: bytes) -> Enr | None:
        """Return the newest record known of a node."""

    def message(self, contact: NodeContact, record: Enr, plaintext: bytes, now: float) -> None:
        """Handle a message of the node of `record`, which has authenticated at this endpoint."""


@dataclass(slots=True, eq=False)
class OutgoingPacket:
    """A request in progress. Compared by identity."""

    contact: NodeContact
    record: Enr
    plaintext: bytes
    nonce: bytes | None = None
    """Nonce of the packet it was last sent in, including a knock; None while it waits."""
    handshaken: bool = False
    """It was last sent in a handshake packet, in response to a WHOAREYOU."""
    generation: int = 0
    """Generation of the session keys it was last sent under; 0: none."""

    @property
    def opening(self) -> bool:
        """Whether it is establishing the session, so that other requests wait for it."""
        return self.nonce is not None and (self.handshaken or self.generation == 0)


class Channel:
    """The secured datagrams of one node.

    `outbox` collects (endpoint, datagram) pairs; the caller drains it after each call.
    """

    def __init__(
        self,
        identity: Identity,
        record: Callable[[], Enr],
        upward: Upward,
        params: Params,
        random: random_module.Random,
    ) -> None:
        """`record` returns our current record. `random` must be cryptographically secure
        (`random.SystemRandom`), except in tests."""
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
        """Number of sessions."""
        return len(self._sessions)

    def _put(self, endpoint: UdpEndpoint, datagram: bytes) -> None:
        self.counters["packets_sent"] += 1
        self.outbox.append((endpoint, datagram))

    # -- sending ----------------------------------------------

    def request(self, contact: NodeContact, record: Enr, plaintext: bytes) -> OutgoingPacket:
        """Send a request to the node of `record`, with a handshake first if there is no session."""
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
        """Respond to a request of the contact, in the session in which it arrived."""
        session = self._sessions.get(contact)
        if session is not None:
            self._put(contact.endpoint, self._sealed(session, contact, plaintext)[1])

    def finish(self, outgoing: OutgoingPacket, *, answered: bool) -> None:
        """End a request. If it was to establish a session and got no response, let the next waiting one
        try."""
        self._forget_nonce(outgoing)
        others = self._requests.get(outgoing.contact)
        if others is None or outgoing not in others:
            return
        others.remove(outgoing)
        if not others:
            del self._requests[outgoing.contact]
        if answered or any(other.opening for other in others):
            return
        # A handshake that stays unanswered leaves keys the other node may not have: discard them.
        session = self._sessions.get(outgoing.contact)
        if session is None or not session.proven:
            self._sessions.pop(outgoing.contact)
            if others:
                self._knock(others[0])

    def _knock(self, outgoing: OutgoingPacket) -> None:
        """Send an undecryptable packet to trigger a WHOAREYOU (discv5-theory, Handshake Steps)."""
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
        """Process a datagram. Never raise: invalid ones are counted."""
        self.counters["packets_received"] += 1
        # Rate-limit by IP before any cryptography: source addresses of UDP can be forged.
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
            # An unreadable message means that the sender has keys we lost, or none: challenge it
            # (discv5-theory).
            self._challenge(packet.nonce, contact, now)
            return
        # The first message under new keys proves that the other node has them: requests may follow.
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
        # The masked header is the challenge-data: the proof must cover exactly these bytes (discv5-theory).
        expires = now + self._params.challenge_timeout
        self._challenges.add(contact, Challenge(header.associated, record, expires))
        self.counters["whoareyou_sent"] += 1
        self._put(contact.endpoint, header.masked)

    def _whoareyou(self, packet: Whoareyou, source: UdpEndpoint) -> None:
        outgoing = self._by_nonce.get(packet.nonce)
        # Accept a WHOAREYOU only for a nonce we sent to this very endpoint, and only once per request;
        # otherwise anyone could make us spend handshakes (discv5-wire, WHOAREYOU Packet).
        if outgoing is None or outgoing.contact.endpoint != source or outgoing.handshaken:
            self.counters["whoareyou_unexpected"] += 1
            return
        contact, me = outgoing.contact, self._identity
        session = self._sessions.get(contact)
        others = self._requests[contact]
        if session is not None and not session.proven and any(other.handshaken for other in others):
            # Several requests were in flight when the other node lost its keys. One handshake is enough, and
            # most nodes accept only one; this request waits for it.
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
            # Send our record unless the numbers match: a higher number comes from a record we have lost, and
            # the other node needs the new one (discv5-wire, Handshake Message Packet).
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
                continue  # zero or beyond the group order: probability 2^-128

    def _handshake(self, packet: Handshake, contact: NodeContact, now: float) -> None:
        # A handshake must answer a challenge of ours; the global rate bounds the cost of signature checks.
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
        """Return the new session and the message if the handshake answers the challenge."""
        record = challenge.record
        if packet.record:
            try:
                received = Enr.from_bytes(packet.record)
            except EnrError:
                return None
            if record is None or received.seq > record.seq:
                record = received
        me = self._identity
        # Without this check a node could prove one identity with the record of another.
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
        """Send what waited for the session: new requests, knocks, and requests under keys that the other
        node lost."""
        for outgoing in list(self._requests.get(contact, ())):
            if not outgoing.handshaken and outgoing.generation != session.generation:
                self._send_in(session, outgoing)
