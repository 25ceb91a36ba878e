"""Reconcile the filter subscriptions an edge node wants with those that peers confirm (12/WAKU2-FILTER).
Pure.

Each wanted content topic is to be held by `PEERS_A_TOPIC` service peers. The plan takes what is wanted
(apps), what is held (only ever from the kernel's replies), the peers and how requests to them went
(`ServicePeers`), and returns the requests that bring held to wanted. It counts by content topic, not by
shard, so that another peer makes up for one that accepts only some of the topics.

Nothing is requested before the kernel has reported once what it holds (`Audit`), nor on a shard before its
lease. Each peer gets one request at a time: one that hangs delays no other.
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

PEERS_A_TOPIC: Final = 2
TOPICS_A_REQUEST: Final = 100
"""Most topics that services accept in one request. The kernel would split more, but then all fail
together."""
AUDIT_S: Final = 30.0
"""Interval of audits: do peers still hold what they should? (nwaku pings as often)"""
DEBOUNCE_S: Final = 1.0
BURST: Final = 5
"""So many changes are acted on immediately; in a flood of them, there is one round of requests per
`DEBOUNCE_S`."""
SETTLE_S: Final = 0.02
"""Changes within this time are requested together."""
FRESH_S: Final = 10.0
"""How long a topic that was never held does not count as failing."""
DOUBT_S: Final = 0.5
"""How long the kernel may count fewer peers than its replies listed before another audit."""
_PAUSE_S: Final = 1.0
"""Delay after a request that failed through no fault of a peer."""


class FilterPlan:
    """The plan for all shards. `clock` returns seconds of running time."""

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

    # -- input -------------------------------------------------------------------------------------------

    def want(self, wanted: Mapping[int, Collection[str]]) -> None:
        """Set all content topics that apps want, by shard."""
        now = self._clock()
        changed = False
        for shard in [shard for shard in self._shards if shard not in wanted]:
            del self._shards[shard]  # its lease is released, and what is held ends with it
        for shard, topics in wanted.items():
            state = self._shards.setdefault(shard, ShardState())
            changed |= state.want(topics if isinstance(topics, Set) else set(topics), now)
        if changed and self._due <= now:
            self._paced_until = max(self._paced_until, now) + DEBOUNCE_S
            self._due = max(now + SETTLE_S, self._paced_until - BURST * DEBOUNCE_S)

    def kernel_up(self) -> None:
        """Handle the kernel's hello: what it holds must be requested, and leases are to come."""
        self._up = True
        self._known = False
        self._audit_at = 0.0
        for state in self._shards.values():
            state.doubt_since, state.believed, state.kernel_count = None, None, 0

    def kernel_down(self) -> None:
        """Handle a kernel that does not answer: no request can be made."""
        self._up = False

    def leased(self, shard: int, instance: bytes, epoch: bytes) -> None:
        """Handle a lease: the kernel records the shard for us.

        Under a new epoch, nothing of it is held any more.
        """
        state = self._shards.get(shard)
        if state is None or state.lease == (instance, epoch):
            return
        if state.lease is not None:
            state.held, state.asked = {}, set()
        state.lease = (instance, epoch)
        state.doubt_since = state.believed = state.restart = None

    def held(
        self, held: Mapping[int, Mapping[str, Collection[str]]], shards: Iterable[int] | None = None
    ) -> None:
        """Set what peers hold for us, by shard and peer: complete for these shards; None: complete for all of
        them."""
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
        """Take the kernel's health: `filter_peers` of the shards."""
        for shard, state in self._shards.items():
            state.kernel_count = counts.get(shard, 0)
            if state.kernel_count != state.believed:
                state.believed = None

    def peers_changed(self) -> None:
        """Handle a new peer list: those that have left hold nothing."""
        for state in self._shards.values():
            for peer in [peer for peer in state.held if peer not in self._peers]:
                del state.held[peer]

    # -- decisions ---------------------------------------------------------------------------------------

    def decide(self) -> list[Action]:
        """Return the requests to make now. Each counts as in flight until `done` or `failed`."""
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
        """Return the shards on which the kernel has counted fewer peers than we do for a while."""
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
        if state.restart and not under_way:
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
        """Where too many peers hold a topic, release those that hold the least."""
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
        """Return when to `decide` again if nothing happens before; None: never."""
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

    # -- results -----------------------------------------------------------------------------------------

    def done(self, action: Action) -> None:
        """Handle a request's reply; what is held now is reported after this (`held`)."""
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
                    state.restart = False
            case _:
                pass

    def _cleared(self, state: ShardState) -> None:
        """Record the cause, found by an audit, of the kernel's lower count."""
        state.suspect = False
        if state.kernel_count >= state.count():
            return
        state.believed = state.kernel_count
        if state.kernel_count == 0 and state.restart is None:
            # Perhaps interest from before our restart that no peer holds any more: coverage would never come
            # back. Should it be another consumer's, this is done once in vain.
            state.restart = True

    def failed(self, action: Action, *, blame: bool) -> None:
        """Handle a failed request. `blame`: the peer was at fault, not the kernel or we."""
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
                    self._shards[shard].asked |= set(topics)  # whether it got through is unknown
            case _:
                pass

    def _end(self, action: Action) -> None:
        self._in_flight = {key: held for key, held in self._in_flight.items() if held is not action}

    # -- inspection --------------------------------------------------------------------------------------

    @property
    def shards(self) -> list[int]:
        """The shards on which anything is wanted."""
        return list(self._shards)

    @property
    def throttled(self) -> bool:
        """True while changes come so quickly that they are batched."""
        return self._due > self._clock() + 2 * SETTLE_S

    def lacks(self, topics: Mapping[int, Collection[str]]) -> bool:
        """Return whether one of these is wanted but not held by any peer."""
        return any(
            topic in state.wanted and not state.holders(topic)
            for shard, some in topics.items()
            if (state := self._shards.get(shard)) is not None
            for topic in some
        )

    def strength(self, shard: int) -> int | None:
        """Return how many peers hold what is wanted on the shard, counted for the topic with the fewest.

        Topics that have not had time to be held are left out; None: there are no others.
        """
        state = self._shards.get(shard)
        if state is None:
            return None
        return state.strength(self._clock() - FRESH_S)

    def exposed(self, shard: int) -> bool:
        """Return whether a topic that was held before is held by no peer now without the kernel knowing.

        A restarted kernel misses nothing until it has been asked.
        """
        state = self._shards.get(shard)
        return state is not None and state.exposed

    def held_by(self, shard: int) -> dict[str, int]:
        """Return peer -> how many content topics of the shard it holds for us."""
        state = self._shards.get(shard)
        return {peer: len(topics) for peer, topics in state.held.items()} if state is not None else {}


def _leave_key(shard: int) -> str:
    return f"leave {shard}"
