"""The run of a plan: a queue of events, participants with a disk, and what must hold at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Protocol

from mapi_proc.channels.channel import ChannelCore, ChannelSettings
from mapi_proc.channels.encryption import XChaCha
from mapi_proc.channels.events import (
    ChannelChanges,
    ChannelOutput,
    Delivered,
    DeliveryError,
    MessageLost,
    Received,
    RetrieveMessages,
    SealedSegment,
    SendError,
    Sent,
    StoredChannel,
    StoredRequest,
    Transmit,
)
from mapi_proc.channels.profiles import PROFILES
from mapi_proc.channels.sds.settings import SdsSettings
from mapi_proc.channels.sds.state import SendKind
from mapi_proc.channels.segmentation.join import JoinLimits
from mapi_proc.channels.segmentation.split import SplitLimits
from tests.simulation.channels.disk import Disk
from tests.simulation.channels.plan import ACTIVE, Member, Plan, make_plan

_EPOCH = 1_700_000_000
_LOST_AFTER = 12 * 3600.0
_LIMIT = ACTIVE + 6 * _LOST_AFTER
"""What a leaver took with it is given up one participant after the other: one hears of a message that waited
for it elsewhere only when it was given up there."""
_KEY = bytes(range(32))


class AnyDisk(Protocol):
    """What a participant's disk can do."""

    def apply(self, changes: ChannelChanges) -> None: ...
    def load(self) -> StoredChannel: ...
    def has(self, message_id: str) -> bool: ...
    def raw(self, message_id: str) -> bytes | None: ...


class Failure(AssertionError):
    """A run did not end as it must."""


@dataclass
class Participant:
    """A member while the run lasts. `journal` is on its disk, like the channel's state."""

    member: Member
    number: int
    disk: AnyDisk
    journal: list[ChannelOutput] = field(default_factory=list)
    sealed: list[SealedSegment] = field(default_factory=list)
    """On the app's stream and not acknowledged: the app is to decrypt them."""
    core: ChannelCore | None = None
    dies_for: float = 0.0
    """Not 0: its next transaction is its last act, and it is down for so long."""

    @property
    def stays(self) -> bool:
        return self.member.leaves is None

    def received(self) -> list[str]:
        """The names of the payloads the app got, in order."""
        return [payload_name(event.payload) for event in self.journal if isinstance(event, Received)]


def make_payload(name: str, seen: list[str], size: int) -> bytes:
    """A payload that says what its sender's app had seen before it: what causal order is checked against."""
    text = json.dumps([name, seen])
    return text.ljust(size).encode()


def hook(data: bytes) -> bytes:
    """The apps' encryption, and decryption."""
    return bytes(byte ^ 0x5A for byte in data)


def payload_name(payload: bytes) -> str:
    return str(json.loads(payload)[0])


class Simulation:
    """One run."""

    def __init__(self, plan: Plan, disk: Callable[[], AnyDisk] = Disk) -> None:
        self.plan = plan
        self.now = 0.0
        self.random = Random(plan.seed ^ 0x5EED)
        self.participants = [
            Participant(member, number, disk()) for number, member in enumerate(plan.members)
        ]
        self.sent: dict[str, int] = {}
        self.requests: dict[bytes, StoredRequest] = {}
        self.store: dict[bytes, bytes] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    # --- time and events ------------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        heappush(self._queue, (when, next(self._order), action))

    def run(self) -> None:
        plan = self.plan
        for participant in self.participants:
            self.at(participant.member.joins, partial(self.start, participant))
            for moment, down in participant.member.crashes:
                self.at(moment, partial(self.crash, participant, down))
            if participant.member.leaves is not None:
                self.at(participant.member.leaves, partial(self.stop, participant))
        for number, (moment, sender, size) in enumerate(plan.sends):
            self.at(moment, partial(self.send, number, sender, size))
        check = ACTIVE
        while self._queue:
            self.now, _, action = heappop(self._queue)
            if self.now > check:
                if self.converged():
                    return
                check = self.now + 60
            if self.now > _LIMIT:
                return
            action()

    def converged(self) -> bool:
        staying = [p for p in self.participants if p.stays]
        if any(p.core is None or not p.core.sds.synced or len(p.core.requests) for p in staying):
            return False
        if any(p.sealed or (p.core is not None and len(p.core.unopened)) for p in staying):
            return False
        return len({tuple(p.core.sds.log.ordered()) for p in staying if p.core}) == 1

    # --- participants ---------------------------------------------------------------------------------------

    def start(self, participant: Participant) -> None:
        if participant.core is not None or (participant.member.leaves or _LIMIT) <= self.now:
            return
        profile = PROFILES[participant.member.profile]
        settings = ChannelSettings(
            profile=profile,
            sds=SdsSettings(form=profile.form, lost_after=_LOST_AFTER),
            join=JoinLimits(timeout=24 * 3600),
            split=SplitLimits(segment_size=320, parity_rate=self.plan.parity),
            delivery_timeout=20 * 3600,
            hooks=self.plan.hooks,
        )
        salt = sha256(f"{self.plan.seed}/{participant.number}/{self.now}".encode()).digest()
        random = Random(salt)
        cipher = XChaCha([_KEY], random.randbytes) if self.plan.encrypted else None
        participant.core = ChannelCore("channel", participant.member.name, settings, random, cipher)
        participant.core.restore(participant.disk.load(), self.now, self.wall(participant))
        core = participant.core
        self.after(participant)
        self.open_later(participant, core)
        self.tick(participant, core)

    def stop(self, participant: Participant) -> None:
        participant.core = None

    def crash(self, participant: Participant, down: float) -> None:
        if participant.core is None:
            return
        if self.random.random() < 0.5:
            self.die(participant, down)
        else:
            participant.dies_for = down

    def die(self, participant: Participant, down: float) -> None:
        participant.core = None
        participant.dies_for = 0.0
        self.at(self.now + down, lambda: self.start(participant))

    def wall(self, participant: Participant) -> int:
        return int((_EPOCH + self.now + participant.member.skew) * 1e9)

    def tick(self, participant: Participant, core: ChannelCore) -> None:
        if participant.core is not core:
            return
        core.tick(self.now, self.wall(participant))
        self.after(participant)
        due = core.next_time()
        when = self.now + 30.0 if due is None else min(max(due, self.now + 1.0), self.now + 30.0)
        self.at(when, lambda: self.tick(participant, core))

    def send(self, number: int, sender: int, size: int) -> None:
        participant = self.participants[sender]
        if participant.core is None:
            return
        name = f"{number}"
        request = name.encode()
        if participant.member.profile != "reference":
            size = 20
        payload = make_payload(name, participant.received(), size)
        if self.plan.hooks:
            segments, needed = participant.core.split(payload)
            stored = StoredRequest(request, (), needed, False, False, sha256(payload).digest())
            contents = [hook(segment) for segment in segments]
            participant.core.send_sealed(stored, contents, self.now, self.wall(participant))
        else:
            participant.core.send(request, payload, False, self.now, self.wall(participant))
        self.sent[name] = sender
        accepted = next(iter(participant.core.requests.changed.values()))
        assert isinstance(accepted, StoredRequest)
        self.requests[request] = accepted
        self.after(participant)

    def after(self, participant: Participant) -> None:
        """Commit what the input changed, then act on it, unless the process dies in between."""
        core = participant.core
        assert core is not None
        outputs, changes = core.take()
        participant.disk.apply(changes)
        participant.journal += [
            output
            for output in outputs
            if not isinstance(output, Transmit | RetrieveMessages | SealedSegment)
        ]
        sealed = [output for output in outputs if isinstance(output, SealedSegment)]
        participant.sealed += sealed
        if sealed:
            self.open_later(participant, core)
        for output in outputs:
            if isinstance(output, Delivered):
                self.check_delivered(output)
        if participant.dies_for:
            self.die(participant, participant.dies_for)
            return
        for output in outputs:
            if isinstance(output, Transmit):
                self.transmit(participant, core, output)
            elif isinstance(output, RetrieveMessages) and self.plan.stores:
                for entry in output.entries:
                    if entry.hint in self.store:
                        self.arrive(
                            participant, self.store[entry.hint], entry.hint, self.random.uniform(0.1, 3)
                        )

    def open_later(self, participant: Participant, core: ChannelCore) -> None:
        delay = self.random.uniform(0.01, 5.0) if self.plan.hooks else 0.0
        self.at(self.now + delay, lambda: self.open_segments(participant, core))

    def open_segments(self, participant: Participant, core: ChannelCore) -> None:
        """The app decrypts what is on its stream, in order; what it has given back it acknowledges."""
        while participant.sealed and participant.core is core:
            first = participant.sealed[0]
            core.opened(first.message_id, hook(first.content), "", self.now)
            self.after(participant)
            if participant.core is core:  # else its process died before the acknowledgement
                del participant.sealed[0]

    # --- the network ----------------------------------------------------------------------------------------

    def transmit(self, sender: Participant, core: ChannelCore, output: Transmit) -> None:
        payload = output.payload
        if payload is None:
            payload = sender.disk.raw(output.message_id)
            assert payload is not None
        digest = sha256(payload + str(self.wall(sender)).encode()).digest()
        if not output.ephemeral:
            self.store[digest] = payload
        for receiver in self.participants:
            if receiver is sender or self.cut(sender.number, receiver.number):
                continue
            copies = 1 + (self.random.random() < self.plan.duplication)
            for _ in range(copies):
                if self.random.random() >= self.plan.loss:
                    self.arrive(receiver, payload, digest, self.random.uniform(0.01, self.plan.delay))
        if output.kind in (SendKind.FIRST, SendKind.AGAIN):
            self.at(self.now + 0.5, lambda: self.reported(sender, core, output.message_id, digest))

    def reported(self, sender: Participant, core: ChannelCore, name: str, digest: bytes) -> None:
        if sender.core is core:
            core.transmitted(name, digest, self.now)
            core.confirmed(name)
            self.after(sender)

    def arrive(self, receiver: Participant, payload: bytes, digest: bytes, delay: float) -> None:
        self.at(self.now + delay, lambda: self.receive(receiver, payload, digest))

    def receive(self, receiver: Participant, payload: bytes, digest: bytes) -> None:
        if receiver.core is not None:
            receiver.core.receive(payload, digest, self.now, self.wall(receiver))
            self.after(receiver)

    def cut(self, one: int, other: int) -> bool:
        return any(
            begin <= self.now < end and (one < border) != (other < border)
            for begin, end, border in self.plan.partitions
        )

    # --- what must hold -------------------------------------------------------------------------------------

    def check_delivered(self, event: Delivered) -> None:
        """`delivered` only when true: the participant has the segments, on its disk."""
        by = next(p for p in self.participants if p.member.name == event.by)
        request = self.requests[event.request_id]
        have = [name for name in request.segments if by.disk.has(name)]
        if len(have) < request.needed:
            raise Failure(f"delivered by {event.by}, who has {len(have)} segments of {request.needed}")

    def check(self) -> None:
        """Check the end of the run; raises `Failure`."""
        staying = [p for p in self.participants if p.stays]
        logs = {p.member.name: tuple(p.core.sds.log.ordered()) if p.core else () for p in staying}
        if len(set(logs.values())) != 1:
            raise Failure(f"logs differ at {self.now:.0f} s: { {k: len(v) for k, v in logs.items()} }")
        for participant in staying:
            self.check_participant(participant)

    def check_participant(self, participant: Participant) -> None:
        name, received = participant.member.name, participant.received()
        own = {text for text, sender in self.sent.items() if sender == participant.number}
        if len(set(received)) != len(received):
            raise Failure(f"{name} got a payload twice: {received}")
        # Those who leave may take what they sent with them.
        gone = self.segments_of_leavers()
        for event in participant.journal:
            if isinstance(event, MessageLost) and not (
                event.message_ids and gone.issuperset(event.message_ids)
            ):
                raise Failure(f"{name} lost something: {event}")
        expected = {
            text for text, sender in self.sent.items() if self.participants[sender].stays and text not in own
        }
        if not expected <= set(received):
            raise Failure(f"{name} never got {sorted(expected - set(received))}")
        self.check_order(participant)
        self.check_requests(participant, own)

    def segments_of_leavers(self) -> set[str]:
        leavers = {text.encode() for text, sender in self.sent.items() if not self.participants[sender].stays}
        return {name for request in leavers for name in self.requests[request].segments}

    def check_order(self, participant: Participant) -> None:
        """Causal order: whatever a payload's sender had seen, or sent before, comes before it."""
        seen: set[str] = set()
        newest: dict[str, int] = {}
        for event in participant.journal:
            if not isinstance(event, Received):
                continue
            text, before = json.loads(event.payload)
            missed = {
                other
                for other in before
                if self.sent[other] != participant.number
                and self.participants[self.sent[other]].stays
                and other not in seen
            }
            if missed:
                raise Failure(f"{participant.member.name} got {text} before {sorted(missed)}")
            if int(text) < newest.get(event.sender_id, -1):
                raise Failure(f"{participant.member.name} got {text} of {event.sender_id} too late")
            newest[event.sender_id] = int(text)
            seen.add(text)

    def check_requests(self, participant: Participant, own: set[str]) -> None:
        ends: dict[bytes, int] = {}
        for event in participant.journal:
            if isinstance(event, Delivered | DeliveryError | SendError):
                ends[event.request_id] = ends.get(event.request_id, 0) + 1
            elif isinstance(event, Sent) and event.request_id in ends:
                raise Failure(f"sent after the end of {event.request_id!r}")
        if any(number != 1 for number in ends.values()):
            raise Failure(f"{participant.member.name}: two ends of a send")
        if set(ends) != {text.encode() for text in own}:
            raise Failure(f"{participant.member.name}: sends without an end")


def simulate(seed: int, disk: Callable[[], AnyDisk] = Disk) -> Simulation:
    """Run a seed and check its end."""
    simulation = Simulation(make_plan(seed), disk)
    simulation.run()
    simulation.check()
    return simulation
