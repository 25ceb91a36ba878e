"""A whole kernel, `python -m kernel_proc`, spoken to over its ZeroMQ sockets with the contract's own types.

On purpose not through logos_client: these tests are about the kernel, and see its bytes first-hand.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

import zmq

from ipc_schema.body import Body
from ipc_schema.errors import IpcError
from ipc_schema.frames import decode_reply, encode_request
from ipc_schema.hello import HELLO, HelloRequest
from ipc_schema.kernel import methods
from ipc_schema.kernel.events import (
    PEERS_TOPIC,
    SOURCE_SELF,
    Heartbeat,
    MessageEvent,
    PeerEvent,
    decode_header,
    parse_stream,
    stream_topic,
)
from ipc_schema.kernel.records import PeerRecord
from ipc_schema.kernel.relay import (
    RELAY_MESH,
    RELAY_PEERS,
    RELAY_PUBLISH,
    RelayPeersReply,
    RelayPeersRequest,
    RelayPublishReply,
    RelayPublishRequest,
)
from ipc_schema.node_info import NODE_INFO, NodeInfoReply, NodeInfoRequest
from ipc_schema.paths import kernel_endpoints, run_directory
from tests.interop.inbox import CommandError, Event, PeerEndedError, PeerTimeoutError
from tests.interop.relay_peer import ConnectedPeer, Connection, RelayNode

REPOSITORY = Path(__file__).parents[2]
POLL_SECONDS = 0.02
STOP_SECONDS = 10.0
B = TypeVar("B", bound=Body)
T = TypeVar("T")


class KernelPeer(RelayNode):
    """One kernel with a data directory of its own, on shard 0 of `cluster`; it keeps dialling `static` peers.

    Use it from one thread. `seed` is the node key, 32 bytes; `options` are further flags.
    """

    def __init__(
        self,
        *,
        static: Sequence[str] = (),
        cluster: int = 42,
        seed: bytes | None = None,
        options: Sequence[str] = (),
        deadline: float = 30.0,
    ) -> None:
        super().__init__("kernel")
        self._cluster = cluster
        self._data = Path(tempfile.mkdtemp(prefix="interop-"))
        self._stopping = threading.Event()
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._requests = self._context.socket(zmq.DEALER)
        self._requests.linger = 0
        self._process = self._start(static, seed, options)
        assert self._process.stdout is not None
        self._threads = [threading.Thread(target=self._read_log, args=(self._process.stdout,), daemon=True)]
        self._threads[0].start()
        try:
            self._open(deadline)
        except BaseException:
            self.kill()
            raise

    def _start(self, static: Sequence[str], seed: bytes | None, more: Sequence[str]) -> subprocess.Popen[str]:
        options: dict[str, object] = {
            "data-dir": self._data,
            "listen-address": "127.0.0.1",
            "cluster-id": self._cluster,
            "num-shards-in-network": 1,
            "shard": 0,
            "tcp-port": 0,
            "websocket-support": "true",
            "websocket-port": 0,
        }
        environment = dict(os.environ)
        if seed is not None:  # a secret: not on the command line
            environment["LOGOS_KERNEL_NODEKEY"] = seed.hex()
        command = [sys.executable, "-m", "kernel_proc"]
        command += [f"--{name}={value}" for name, value in options.items()]
        command += [f"--staticnode={address}" for address in static]
        command += more
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def _open(self, deadline: float) -> None:
        end = time.monotonic() + deadline
        self._requests.connect(kernel_endpoints(run_directory(self._data)).requests)
        hello = self._until("hello", lambda: self._try_hello(end), deadline)
        events = threading.Thread(target=self._read_events, args=(hello.events,), daemon=True)
        self._threads.append(events)
        events.start()
        # The barrier of the contract: with the first heartbeat the subscription holds.
        self.wait_event("heartbeat", deadline=max(1.0, end - time.monotonic()))
        info = self._call(NODE_INFO, NodeInfoRequest(), NodeInfoReply).info
        self.peer_id = str(info["MyPeerId"])
        addresses = info["MyMultiaddresses"]
        assert isinstance(addresses, (list, tuple))
        self.addresses = tuple(map(str, addresses))

    def _try_hello(self, end: float) -> methods.KernelHello | None:
        try:
            return self._call(
                HELLO,
                HelloRequest(kind="tool", name="interop"),
                methods.KernelHello,
                deadline=max(0.1, end - time.monotonic()),
            )
        except IpcError as error:
            if not error.retriable:
                raise
            return None

    # --- reading ------------------------------------------------------------------------------------------

    def _read_log(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._log.append(line.rstrip())
        self._end()

    def _read_events(self, endpoint: str) -> None:
        with self._context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.connect(endpoint)
            socket.subscribe(stream_topic(self._cluster, 0))
            socket.subscribe(PEERS_TOPIC)
            while not self._stopping.is_set():
                if not socket.poll(100):
                    continue
                topic, header, payload = socket.recv_multipart()
                event = self._event(topic, header, payload)
                if event is not None:
                    self._put(event)

    def _event(self, topic: bytes, header: bytes, payload: bytes) -> Event | None:
        decoded = decode_header(header)
        if isinstance(decoded, Heartbeat):
            return None if topic == PEERS_TOPIC else {"event": "heartbeat"}
        if isinstance(decoded, PeerEvent):
            kind = {"joined": "connected", "left": "disconnected"}.get(decoded.change, "changed")
            return {"event": kind, "peerId": decoded.peer.peer_id}
        if not isinstance(decoded, MessageEvent):
            return None
        cluster, shard = parse_stream(topic.rstrip(b"\0").decode())
        return {
            "event": "own" if decoded.source == SOURCE_SELF else "message",
            "hash": decoded.message_hash.hex(),
            "pubsubTopic": f"/waku/2/rs/{cluster}/{shard}",
            "contentTopic": decoded.content_topic,
            "payload": base64.b64encode(payload).decode(),
            "timestamp": decoded.timestamp,
            "meta": base64.b64encode(decoded.meta).decode(),
            "version": decoded.version,
            "ephemeral": decoded.ephemeral,
        }

    # --- talking ------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        request: Body | None,
        reply: type[B],
        *,
        blobs: Sequence[bytes] = (),
        deadline: float = 40.0,
    ) -> B:
        """One request, one reply. Raises IpcError, PeerTimeoutError, PeerEndedError."""
        correlation = os.urandom(16)
        body = request.to_body() if request is not None else None
        budget_ms = int(deadline * 1000)
        self._requests.send_multipart(encode_request(correlation, method, body, blobs, budget_ms=budget_ms))
        end = time.monotonic() + deadline
        while True:
            if self._process.poll() is not None:
                raise PeerEndedError(f"the kernel ended ({self._process.returncode}){self._story()}")
            if self._requests.poll(50):
                answer = decode_reply(self._requests.recv_multipart())
                if answer.correlation_id == correlation:
                    break
            if time.monotonic() > end:
                raise PeerTimeoutError(f"no reply to {method} within {deadline:g} s{self._story()}")
        if (error := answer.error) is not None:
            raise error
        return reply.from_body(answer.body)

    def _until(self, what: str, look: Callable[[], T | None], deadline: float) -> T:
        """Ask again and again until there is an answer: for state that has no event of its own."""
        end = time.monotonic() + deadline
        while (found := look()) is None:
            if time.monotonic() > end:
                raise PeerTimeoutError(f"kernel: no {what} within {deadline:g} s{self._story()}")
            time.sleep(POLL_SECONDS)
        return found

    def _record(self, peer_id: str) -> PeerRecord | None:
        peers = self._call(methods.PEERS_LIST, None, methods.PeersListReply).peers
        return next((peer for peer in peers if peer.peer_id == peer_id and peer.direction), None)

    def dial(self, address: str, *, deadline: float = 40.0) -> str:
        request = methods.PeersConnectRequest(addresses=(address,))
        reply = self._call(methods.PEERS_CONNECT, request, methods.PeersConnectReply, deadline=deadline)
        (result,) = reply.results
        if result.peer_id is None:
            raise CommandError(f"kernel: {result.error}")
        return result.peer_id

    def publish(
        self,
        content_topic: str,
        payload: bytes,
        *,
        timestamp_ms: int | None = None,
        meta: bytes | None = None,
        ephemeral: bool = False,
        shard: int = 0,
    ) -> tuple[bytes, tuple[str, ...]]:
        topic = f"/waku/2/rs/{self._cluster}/{shard}"
        where = RelayPeersRequest(pubsub_topic=topic)
        known = self._call(RELAY_PEERS, where, RelayPeersReply).topics.get(topic, ())
        request = RelayPublishRequest(
            content_topic=content_topic,
            shard=shard,
            timestamp=None if timestamp_ms is None else timestamp_ms * 1_000_000,
            meta=meta or b"",
            ephemeral=ephemeral,
        )
        try:
            reply = self._call(RELAY_PUBLISH, request, RelayPublishReply, blobs=[payload])
        except IpcError as error:
            raise CommandError(str(error)) from error
        if reply.peers != len(known):
            raise CommandError(f"kernel: sent to {reply.peers} of {len(known)} peers")
        return reply.message_hash, known

    def peers(self) -> dict[str, ConnectedPeer]:
        records = self._call(methods.PEERS_LIST, None, methods.PeersListReply).peers
        return {
            peer.peer_id: ConnectedPeer(
                peer.peer_id, peer.agent, peer.protocols, (Connection(peer.address, peer.direction, "", ""),)
            )
            for peer in records
            if peer.direction
        }

    # --- waiting for state --------------------------------------------------------------------------------

    def wait_meshed(self, peer_id: str, *, deadline: float = 40.0) -> None:
        def look() -> bool | None:
            reply = self._call(RELAY_MESH, RelayPeersRequest(), RelayPeersReply)
            return True if any(peer_id in mesh for mesh in reply.topics.values()) else None

        self._until(f"mesh with {peer_id}", look, deadline)

    def wait_shards(self, peer_id: str, *, deadline: float = 40.0) -> tuple[int, tuple[int, ...]]:
        def look() -> tuple[int, tuple[int, ...]] | None:
            record = self._record(peer_id)
            return (record.cluster, record.shards) if record and record.cluster is not None else None

        return self._until(f"metadata of {peer_id}", look, deadline)

    # --- ending -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        self._process.kill()
        self._clean_up()

    def close(self) -> None:
        """TERM; the kernel has to end with exit code 0."""
        running = self._process.poll() is None
        if running:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        code = self._process.poll()
        if code is None:
            self._process.kill()
        self._clean_up()
        if running and code != 0:
            raise PeerEndedError(f"the kernel ended with {code} after SIGTERM{self._story()}")

    def _clean_up(self) -> None:
        self._process.wait(STOP_SECONDS)
        self._stopping.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._requests.close()
        self._context.term()
        shutil.rmtree(self._data, ignore_errors=True)
