"""Names of what the bridge uses in NATS, from the subject prefix. Pure.

| what | subjects | kept |
|---|---|---|
| messages | `<prefix>.messages.<cluster>.<shard>.<content topic>` | by age and size |
| sends | `<prefix>.sends.<content topic>` | until a bridge has taken it (work queue) |
| fates | `<prefix>.fates.<client>.<kind>` | by age and size |
| dead letters | `<prefix>.dead.sends` | by age and size |
| state (KV) | positions, signs of life | the last value |
| open sends (KV) | one for each send without a final fate | until it has one |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_CLIENT: Final = "-"
"""Token of a send that names no client."""


@dataclass(frozen=True, slots=True)
class Layout:
    """All names below one subject prefix."""

    prefix: str

    @property
    def _name(self) -> str:
        # Names of streams have no dots.
        return self.prefix.replace(".", "_")

    @property
    def messages(self) -> str:
        """Stream of the network's messages."""
        return f"{self._name}-messages"

    @property
    def sends(self) -> str:
        """Stream of the work queue."""
        return f"{self._name}-sends"

    @property
    def fates(self) -> str:
        """Stream of what became of sends."""
        return f"{self._name}-fates"

    @property
    def dead(self) -> str:
        """Stream of refused sends."""
        return f"{self._name}-dead"

    @property
    def state_bucket(self) -> str:
        """KV bucket of positions and signs of life."""
        return f"{self._name}-bridge"

    @property
    def open_bucket(self) -> str:
        """KV bucket of the sends without a final fate."""
        return f"{self._name}-open"

    @property
    def consumer(self) -> str:
        """Durable consumer of the work queue, shared by all bridges."""
        return f"{self._name}-bridges"

    def shard_subject(self, cluster: int, shard: int) -> str:
        """Return what the subjects of a shard's messages begin with."""
        return f"{self.prefix}.messages.{cluster}.{shard}"

    def sends_prefix(self) -> str:
        """Return what precedes the content topic in the subject of a send."""
        return f"{self.prefix}.sends."

    def fate_subject(self, client: str, kind: str) -> str:
        return f"{self.prefix}.fates.{client}.{kind}"

    def dead_subject(self) -> str:
        """Return the subject of refused sends."""
        return f"{self.prefix}.dead.sends"

    def position_key(self, peer_id: str, cluster: int, shard: int) -> str:
        """Return the key of one node's position in one shard's stream."""
        return f"position.{cluster}.{shard}.{peer_id}"

    def alive_key(self, bridge: str) -> str:
        """Return the key of a bridge's sign of life."""
        return f"alive.{bridge}"
