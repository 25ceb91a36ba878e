"""The bench `rpc`: requests to a kernel's ROUTER, against a bare pyzmq ROUTER that answers the same.

    python -m tests.bench.rpc ENDPOINT        is the reference: decode the request, encode the reply, send

Clients are plain DEALERs in this process. Serial: each has one request on its way; pipelined: WINDOW of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import zmq

from ipc_schema.frames import decode_reply, decode_request, encode_reply, encode_request
from tests.bench.harness import (
    BenchError,
    Case,
    Child,
    CpuMeter,
    Options,
    Round,
    alternate,
    percentile,
    result,
)
from tests.bench.lines import emit
from tests.support.kernel_process import KernelProcess, short_directory

BENCH: Final = "rpc"
REFERENCE: Final = "bare pyzmq ROUTER loop"
REQUESTS: Final = {1: 4_000, 100: 10_000}
"""Clients → requests of a run, of all together."""
WINDOW: Final = {1: 64, 100: 8}
ASKED: Final = {"ids": ["Version"]}
ANSWER: Final = {"info": {"Version": "0.1.0"}}
WAIT_MS: Final = 10_000


class _Clients:
    """DEALERs connected to one server, introduced to it."""

    def __init__(self, stack: ExitStack, endpoint: str, count: int, pid: int) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = stack.enter_context(zmq.Context())
        self._pid = pid
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        for number in range(count):
            dealer = stack.enter_context(context.socket(zmq.DEALER))
            dealer.set(zmq.LINGER, 0)
            dealer.connect(endpoint)
            dealer.send_multipart(
                encode_request(os.urandom(16), "hello", {"kind": "tool", "protocol": [1, 1]})
            )
            if not dealer.poll(WAIT_MS) or decode_reply(dealer.recv_multipart()).error is not None:
                raise BenchError(f"client {number} was not let in")
            self._sockets.append(dealer)
            self._poller.register(dealer, zmq.POLLIN)

    def run(self, requests: int, window: int) -> Round:
        """One round: requests/s, CPU of the server, µs from a request to its reply."""
        left = requests
        due: dict[bytes, int] = {}
        delays: list[int] = []
        meter = CpuMeter({"server": self._pid})
        start = time.monotonic_ns()

        def ask(dealer: zmq.Socket[bytes]) -> None:
            correlation = os.urandom(16)
            due[correlation] = time.monotonic_ns()
            dealer.send_multipart(encode_request(correlation, "node.info", ASKED))

        for dealer in self._sockets:
            for _ in range(min(window, left)):
                ask(dealer)
                left -= 1
        while due:
            ready = self._poller.poll(WAIT_MS)
            if not ready:
                raise BenchError(f"{len(due)} requests were not answered")
            for dealer, _ in ready:
                while True:
                    try:
                        frames = dealer.recv_multipart(zmq.NOBLOCK)
                    except zmq.Again:
                        break
                    reply = decode_reply(frames)
                    if reply.error is not None:
                        raise BenchError(f"refused: {reply.error}")
                    delays.append(time.monotonic_ns() - due.pop(reply.correlation_id))
                    if left:
                        ask(dealer)
                        left -= 1
        seconds = (time.monotonic_ns() - start) / 1e9
        extra = {f"p{share}_us": percentile(delays, share / 100) / 1000 for share in (50, 99)}
        return Round(len(delays) / seconds, meter.per_message(len(delays)), extra)


def rpc(options: Options) -> Iterator[dict[str, Any]]:
    """Requests/s by number of clients, serial and pipelined."""
    with ExitStack() as stack:
        place = stack.enter_context(short_directory())
        kernel = stack.enter_context(KernelProcess(place / "k"))
        assert kernel.process is not None
        endpoint = f"ipc://{place}/bare"
        bare = stack.enter_context(Child.python("bare", "tests.bench.rpc", endpoint))
        bare.event("ready")
        for count, requests in REQUESTS.items():
            for how, window in (("serial", 1), ("pipelined", WINDOW[count])):
                name = f"{count} client{'s' if count > 1 else ''}, {how}"
                if not options.wants(name):
                    continue
                with ExitStack() as case_stack:
                    ours = _Clients(case_stack, kernel.endpoints.requests, count, kernel.process.pid)
                    theirs = _Clients(case_stack, endpoint, count, bare.pid)
                    number = options.count(requests)
                    for side in (ours, theirs):
                        side.run(max(20, number // 10), window)  # not measured
                    rounds = alternate(
                        options.runs, partial(ours.run, number, window), partial(theirs.run, number, window)
                    )
                more = {"requests": number, "window": window}
                yield result(Case(BENCH, name, "requests/s", REFERENCE, more=more), *rounds)


def _bare(endpoint: str) -> None:
    """The reference, until its standard input ends."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(endpoint)
        instance = os.urandom(16)
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(sys.stdin.fileno(), zmq.POLLIN)
        emit("ready")
        while True:
            if sys.stdin.fileno() in dict(poller.poll()):
                return
            while True:
                try:
                    peer, *frames = router.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                request, _ = decode_request(frames)
                router.send_multipart([peer, *encode_reply(request.correlation_id, instance, ANSWER)])


if __name__ == "__main__":
    _bare(sys.argv[1])
