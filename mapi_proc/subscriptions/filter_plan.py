"""What an edge node wants by filter against what peers confirm that they push (12/WAKU2-FILTER). Pure.

Each wanted content topic is to be held by `PEERS_A_TOPIC` service peers. The plan is told what is wanted
(apps), what is held (the kernel's replies are the only source of that), which peers there are and how asking
them went (`ServicePeers`); it answers with the requests that bring held to wanted. It counts by content topic
and not by shard, so that a peer that takes no more than a part is made up for by another one.

Nothing is asked before the kernel has told once what it holds (`Audit`), nor on a shard before the lease.
Each peer is asked one thing at a time: one that hangs delays nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import Final

from mapi_proc.peers import FILTER, ServicePeers
from mapi_proc.subscriptions.filter_state import (
    Action,
    Audit,
    Leave,
    ShardState,
    Subscribe,
    Unsubscribe,
)

__all__ = [
    "AUDIT_S",
    "DEBOUNCE_S",
    "PEERS_A_TOPIC",
    "TOPICS_A_REQUEST",
    "Action",
    "Audit",
    "FilterPlan",
    "Leave",
    "Subscribe",
    "Unsubscribe",
]

PEERS_A_TOPIC: Final = 2
TOPICS_A_REQUEST: Final = 100
"""What services take in one request; the kernel would divide more, but then it is all or nothing."""
AUDIT_S: Final = 30.0
"""Between two looks at whether peers still hold what they should (nwaku pings as often)."""
DEBOUNCE_S: Final = 1.0
BURST: Final = 5
"""So many changes are acted on at once; in a flood of them, there is one round of requests per
`DEBOUNCE_S`."""
SETTLE_S: Final = 0.02
"""What changes within this time is asked for together."""
FRESH_S: Final = 10.0
"""How long a topic that was never held is not yet a topic in trouble."""
DOUBT_S: Final = 0.5
"""How long the kernel may count fewer peers than its replies said before it is asked again."""
_PAUSE_S: Final = 1.0
"""After a request that failed by no fault of a peer."""


class FilterPlan:
    """See the module's text. `clock` is seconds of running time."""

    def __init__(self, peers: ServicePeers, clock: Callable[[], float]) -> None:
        self._peers = peers
        self._clock = clock
        self._shards: dict[int, ShardState] = {}
        self._in_flight: dict[str, Action] = {}
        self._up = False
        self._known = False
        self._audit_at = 0.0
        self._due = 0.0
        self._paced_until = 0.0

    # -- what it is told ---------------------------------------------------------------------------------

    def want(self, wanted: Mapping[int, Collection[str]]) -> None:
        """All content topics that apps want, by shard."""
        now = self._clock()
        changed = False
        for shard in [shard for shard in self._shards if shard not in wanted]:
            del self._shards[shard]  # its lease is given up, and what is held ends with it
        for shard, topics in wanted.items():
            state = self._shards.setdefault(shard, ShardState())
            changed |= state.want(topics if isinstance(topics, Set) else set(topics), now)
        if changed and self._due <= now:
            self._paced_until = max(self._paced_until, now) + DEBOUNCE_S
            self._due = max(now + SETTLE_S, self._paced_until - BURST * DEBOUNCE_S)

    def kernel_up(self) -> None:
        """The kernel answered: what it holds must be asked for, and leases are to come."""
        self._up = True
        self._known = False
        self._audit_at = 0.0
        for state in self._shards.values():
            state.doubt_since, state.believed, state.kernel_count = None, None, 0

    def kernel_down(self) -> None:
        """Nothing can be asked."""
        self._up = False

    def leased(self, shard: int, instance: bytes, epoch: bytes) -> None:
        """The kernel records the shard for us. Under another epoch than before nothing of it is held."""
        state = self._shards.get(shard)
        if state is None or state.lease == (instance, epoch):
            return
        if state.lease is not None:
            state.held, state.asked = {}, set()
        state.lease = (instance, epoch)
        state.doubt_since = state.believed = state.anew = None

    def held(
        self, held: Mapping[int, Mapping[str, Collection[str]]], shards: Iterable[int] | None = None
    ) -> None:
        """What peers hold for us, by shard and peer: the whole of these shards; None: of all of them."""
        for shard in list(self._shards) if shards is None else shards:
            state = self._shards.get(shard)
            if state is None:
                continue
            state.held = {peer: set(topics) for peer, topics in held.get(shard, {}).items() if topics}
            everything: set[str] = set().union(*state.held.values())
            state.asked |= everything
            state.confirmed |= everything & state.wanted.keys()
            state.doubt_since = None

    def counted(self, counts: Mapping[int, int]) -> None:
        """The kernel's health: `filter_peers` of the shards."""
        for shard, state in self._shards.items():
            state.kernel_count = counts.get(shard, 0)
            if state.kernel_count != state.believed:
                state.believed = None

    def peers_changed(self) -> None:
        """Other peers are connected: those that have left hold nothing."""
        for state in self._shards.values():
            for peer in [peer for peer in state.held if peer not in self._peers]:
                del state.held[peer]

    # -- what it decides ---------------------------------------------------------------------------------

    def decide(self) -> list[Action]:
        """The requests to make now. Each counts as under way until `done` or `failed`."""
        now = self._clock()
        if not self._up:
            return []
        actions: list[Action] = []
        suspects = self._suspects(now)
        if suspects or self._audit_at <= now:
            if "" not in self._in_flight:
                for state in suspects:
                    state.suspect = True
            self._begin("", Audit(), actions)
        if self._known and self._due <= now:
            for shard, state in self._shards.items():
                if state.lease is not None:
                    self._leave(shard, state, actions)
                    self._subscribe(shard, state, actions)
                    self._unsubscribe(shard, state, actions)
        return actions

    def _begin(self, key: str, action: Action, actions: list[Action]) -> None:
        if key not in self._in_flight:
            self._in_flight[key] = action
            actions.append(action)

    def _suspects(self, now: float) -> list[ShardState]:
        """The shards on which the kernel has counted fewer peers than we do for a while."""
        found = []
        for state in self._shards.values():
            if not state.held or state.believed is not None or state.kernel_count >= state.count():
                state.doubt_since = None
            elif state.doubt_since is None:
                state.doubt_since = now
            elif now - state.doubt_since >= DOUBT_S:
                found.append(state)
        return found

    def _leave(self, shard: int, state: ShardState, actions: list[Action]) -> None:
        under_way = self._under_way(shard)
        if state.anew and not under_way:
            self._begin(_leave_key(shard), Leave(shard, ()), actions)
            return
        unwanted = sorted(state.asked - state.wanted.keys() - set().union(*under_way.values()))
        if unwanted:
            self._begin(_leave_key(shard), Leave(shard, tuple(unwanted[:TOPICS_A_REQUEST])), actions)

    def _subscribe(self, shard: int, state: ShardState, actions: list[Action]) -> None:
        leaving = self._in_flight.get(_leave_key(shard))
        going = set(leaving.topics) if isinstance(leaving, Leave) else set()
        if isinstance(leaving, Leave) and not leaving.topics:
            return
        places: dict[str, set[str]] = {peer: set(topics) for peer, topics in state.held.items()}
        for peer, topics in self._under_way(shard).items():
            places.setdefault(peer, set()).update(topics)
        count = dict.fromkeys(state.wanted.keys() - going, 0)
        for held in places.values():
            for topic in held & count.keys():
                count[topic] += 1
        lacking = {topic for topic, holders in count.items() if holders < PEERS_A_TOPIC}
        if not lacking:
            return
        free = self._peers.free(FILTER, shard)
        known = sorted((peer for peer in free if peer in places), key=lambda peer: -len(places[peer]))
        for peer in (*known, *(peer for peer in free if peer not in places)):
            give = sorted(lacking - places.get(peer, set()))
            for topic in give:
                count[topic] += 1
                if count[topic] == PEERS_A_TOPIC:
                    lacking.discard(topic)
            if give:
                self._begin(peer, Subscribe(shard, peer, tuple(give[:TOPICS_A_REQUEST])), actions)
            if not lacking:
                return

    def _unsubscribe(self, shard: int, state: ShardState, actions: list[Action]) -> None:
        """Where more peers hold a topic than should, those go that hold the least."""
        if len(state.held) <= PEERS_A_TOPIC:
            return
        by_size = sorted(state.held, key=lambda peer: (-len(state.held[peer]), peer))
        count: dict[str, int] = {}
        for peer in by_size:
            surplus = []
            for topic in sorted(state.held[peer] & state.wanted.keys()):
                count[topic] = count.get(topic, 0) + 1
                if count[topic] > PEERS_A_TOPIC:
                    surplus.append(topic)
            if surplus:
                self._begin(peer, Unsubscribe(shard, peer, tuple(surplus[:TOPICS_A_REQUEST])), actions)

    def _under_way(self, shard: int) -> dict[str, tuple[str, ...]]:
        return {
            peer: action.topics
            for peer, action in self._in_flight.items()
            if isinstance(action, Subscribe) and action.shard == shard
        }

    def wake_at(self) -> float | None:
        """When to `decide` again if nothing happens before; None: never."""
        if not self._up:
            return None
        now = self._clock()
        times = [self._due] if self._due > now else []
        if "" not in self._in_flight:
            times.append(self._audit_at)
            times += [s.doubt_since + DOUBT_S for s in self._shards.values() if s.doubt_since is not None]
        for shard in self._shards:
            free = self._peers.next_free(FILTER, shard)
            if free is not None:
                times.append(free)
        return min(times) if times else None

    # -- how it went -------------------------------------------------------------------------------------

    def done(self, action: Action) -> None:
        """The request was answered; `held` is told what is held now, after this."""
        self._end(action)
        match action:
            case Audit():
                self._known = True
                self._audit_at = self._clock() + AUDIT_S
                for state in self._shards.values():
                    if state.suspect:
                        self._cleared(state)
            case Subscribe(peer=peer):
                self._peers.succeeded(FILTER, peer)
            case Leave(shard=shard, topics=topics) if shard in self._shards:
                state = self._shards[shard]
                state.asked -= set(topics) if topics else set(state.asked)
                if not topics:
                    state.anew = False
            case _:
                pass

    def _cleared(self, state: ShardState) -> None:
        """An audit has found out why the kernel counted fewer."""
        state.suspect = False
        if state.kernel_count >= state.count():
            return
        state.believed = state.kernel_count
        if state.kernel_count == 0 and state.anew is None:
            # A wish from before our restart, perhaps, which nobody holds any more: coverage would never come
            # back. Should it be another consumer's, this is done once in vain.
            state.anew = True

    def failed(self, action: Action, *, blame: bool) -> None:
        """It was not. `blame`: it was the peer's fault, not the kernel's or ours."""
        self._end(action)
        if not blame:
            self._due = max(self._due, self._clock() + _PAUSE_S)
        match action:
            case Audit():
                self._audit_at = self._clock() + _PAUSE_S
            case Subscribe(shard=shard, peer=peer, topics=topics):
                if blame:
                    self._peers.failed(FILTER, peer)
                if shard in self._shards:
                    self._shards[shard].asked |= set(topics)  # whether it got through nobody knows
            case _:
                pass

    def _end(self, action: Action) -> None:
        self._in_flight = {key: held for key, held in self._in_flight.items() if held is not action}

    # -- looking in --------------------------------------------------------------------------------------

    @property
    def shards(self) -> list[int]:
        """The shards on which anything is wanted."""
        return list(self._shards)

    @property
    def throttled(self) -> bool:
        """Changes come so quickly that they are collected."""
        return self._due > self._clock() + 2 * SETTLE_S

    def lacks(self, topics: Mapping[int, Collection[str]]) -> bool:
        """Whether one of these is wanted and held by nobody."""
        return any(
            topic in state.wanted and not state.holders(topic)
            for shard, some in topics.items()
            if (state := self._shards.get(shard)) is not None
            for topic in some
        )

    def strength(self, shard: int) -> int | None:
        """How many peers hold what is wanted on the shard, of the topic that fewest hold. Topics that have
        not had the time to be held are left out; None: there are no others.
        """
        state = self._shards.get(shard)
        if state is None:
            return None
        return state.strength(self._clock() - FRESH_S)

    def exposed(self, shard: int) -> bool:
        """Whether a topic that was held before is held by nobody, and the kernel does not know it: to a
        kernel that was restarted nothing is missing until it has been asked for.
        """
        state = self._shards.get(shard)
        return state is not None and state.exposed

    def held_by(self, shard: int) -> dict[str, int]:
        """Peer -> how many content topics of the shard it holds for us."""
        state = self._shards.get(shard)
        return {peer: len(topics) for peer, topics in state.held.items()} if state is not None else {}


def _leave_key(shard: int) -> str:
    return f"leave {shard}"
