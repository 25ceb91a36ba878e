"""Read a signed node list from DNS (EIP-1459), within limits.

The cost of one reading is bounded, since anyone can own the domain: entries, depth, linked lists, concurrent
queries, and time. Entries are named by their hash, so they can be cached forever: a refresh only fetches the
root and what has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from kernel_proc.discovery.dns_resolver import DnsFailure, DnsTxtResolver
from kernel_proc.discovery.dns_tree import (
    Branch,
    Entry,
    Link,
    TreeError,
    TreeFormatError,
    TreeRoot,
    TreeUrl,
    parse_entry,
    parse_root,
)
from kernel_proc.discovery.enr import Enr


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """Limits of one reading. Durations in seconds."""

    entries: int = 2000
    records: int = 500
    """Maximum node records."""
    depth: int = 12
    lists: int = 4
    """The list itself and the lists it links to."""
    at_once: int = 8
    failures: int = 50
    """Missing or invalid entries after which the reading is aborted."""
    seconds: float = 60.0


@dataclass(slots=True)
class Reading:
    """The result of reading a list. `complete`: no entry was left out."""

    records: list[Enr] = field(default_factory=list)
    seq: int = 0
    entries: int = 0
    errors: list[str] = field(default_factory=list)
    complete: bool = True

    def note(self, problem: str) -> None:
        """Record that something was left out."""
        self.complete = False
        if len(self.errors) < MAX_ERRORS and problem not in self.errors:
            self.errors.append(problem)


MAX_ERRORS: Final = 10
MAX_CACHED: Final = 4096


class TreeClient:
    """Read lists; cache their entries and the highest `seq` of each, below which roots are rejected."""

    def __init__(self, resolver: DnsTxtResolver, limits: TreeLimits | None = None) -> None:
        self._resolver = resolver
        self.limits = limits or TreeLimits()
        self._cache: dict[tuple[str, str], Entry] = {}
        self._seqs: dict[TreeUrl, int] = {}

    async def read(self, url: TreeUrl, found: Callable[[Enr], None] = lambda _record: None) -> Reading:
        """Read a whole list and the lists it links to; `found` gets each record as it arrives.

        Raise DnsFailure or TreeError without an acceptable root. Errors below the root only lose the affected
        parts.
        """
        root = await self.root(url)
        reading = Reading(seq=root.seq)
        done = False
        with trio.move_on_after(self.limits.seconds):
            await _Walk(self, url, root, reading, found).run()
            done = True
        if not done:
            reading.note(f"incomplete after {self.limits.seconds:g} s")
        return reading

    async def root(self, url: TreeUrl) -> TreeRoot:
        """Return the root of a list, if it is signed and not older than the known one. Raise DnsFailure or
        TreeError."""
        problem: TreeError = TreeFormatError(f"{url.domain} has no list root")
        # The domain may have other TXT records (mail policies, ownership proofs).
        roots = []
        for text in await self._resolver.txt(url.domain):
            if not text.startswith("enrtree-root:"):
                continue
            try:
                roots.append(parse_root(text, url.public_key))
            except TreeError as error:
                problem = error
        if not roots:
            raise problem
        root = max(roots, key=lambda one: one.seq)
        # Replay protection: a resolver could serve an old, validly signed root (EIP-1459, Client Protocol).
        if root.seq < self._seqs.get(url, 0):
            raise TreeFormatError(f"the root of {url.domain} is older than the known one")
        self._seqs[url] = root.seq
        return root

    async def entry(self, domain: str, name: str) -> Entry:
        """Return one entry, verified against its name. Raise DnsFailure or TreeError."""
        key = domain, name
        if (known := self._cache.get(key)) is not None:
            return known
        problem: TreeError | None = None
        for text in await self._resolver.txt(f"{name}.{domain}"):
            try:
                entry = parse_entry(text, name)
            except TreeError as error:
                problem = error
                continue
            while len(self._cache) >= MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = entry
            return entry
        raise problem or TreeFormatError(f"{name}.{domain} has no entry")


class _Walk:
    """One reading: breadth-first, with a few concurrent queries."""

    def __init__(
        self, client: TreeClient, url: TreeUrl, root: TreeRoot, reading: Reading, found: Callable[[Enr], None]
    ) -> None:
        self._client = client
        self._limits = client.limits
        self._reading = reading
        self._found = found
        self._lists = {url}
        self._seen: set[tuple[str, str]] = set()
        self._failures = 0
        self._todo: list[tuple[str, str, int, bool]] = []
        self._add_root(url, root)

    def _add_root(self, url: TreeUrl, root: TreeRoot) -> None:
        self._add(url.domain, root.nodes, 0, links=False)
        self._add(url.domain, root.links, 0, links=True)

    def _add(self, domain: str, name: str, depth: int, *, links: bool) -> None:
        if (domain, name) in self._seen:
            return  # a loop, or a duplicate
        if depth > self._limits.depth:
            self._reading.note(f"deeper than {self._limits.depth} levels")
        elif len(self._seen) >= self._limits.entries:
            self._reading.note(f"more than {self._limits.entries} entries")
        else:
            self._seen.add((domain, name))
            self._todo.append((domain, name, depth, links))

    async def run(self) -> None:
        """Run until everything is read or a limit is exceeded."""
        while self._todo:
            batch, self._todo = self._todo[: self._limits.at_once], self._todo[self._limits.at_once :]
            async with trio.open_nursery() as nursery:
                for domain, name, depth, links in batch:
                    nursery.start_soon(self._step, domain, name, depth, links)
            if self._failures > self._limits.failures:
                self._reading.note(f"more than {self._limits.failures} missing or invalid entries")
                return
            if len(self._reading.records) >= self._limits.records:
                self._reading.note(f"more than {self._limits.records} records")
                return

    async def _step(self, domain: str, name: str, depth: int, links: bool) -> None:
        try:
            entry = await self._client.entry(domain, name)
        except (DnsFailure, TreeError) as error:
            self._failures += 1
            self._reading.note(str(error))
            return
        self._reading.entries += 1
        if isinstance(entry, Branch):
            for child in entry.hashes:
                self._add(domain, child, depth + 1, links=links)
        elif isinstance(entry, Link):
            if links:
                await self._follow(entry.url)
        elif not links and len(self._reading.records) < self._limits.records:
            self._reading.records.append(entry)
            self._found(entry)

    async def _follow(self, url: TreeUrl) -> None:
        if url in self._lists:
            return
        if len(self._lists) >= self._limits.lists:
            self._reading.note(f"links to more than {self._limits.lists - 1} other lists")
            return
        self._lists.add(url)
        try:
            self._add_root(url, await self._client.root(url))
        except (DnsFailure, TreeError) as error:
            self._failures += 1
            self._reading.note(f"{url.domain}: {error}")
