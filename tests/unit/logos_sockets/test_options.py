"""Options of sockets that keep libzmq from aborting the process."""

from __future__ import annotations

import subprocess
import sys

CLOSING = """
import os, signal, sys, tempfile
import zmq
from logos_sockets import open_dealer

CLIENTS = 20

def serve(endpoint, ready):
    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(endpoint)
    os.write(ready, b"1")
    for _ in range(CLIENTS):
        router.recv_multipart()
    os.kill(os.getpid(), signal.SIGSTOP)

for _ in range(40):
    with tempfile.TemporaryDirectory() as directory:
        endpoint = f"ipc://{directory}/s"
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            serve(endpoint, writing)
        os.read(reading, 1)
        context = zmq.Context()
        dealers = [open_dealer(context, endpoint) for _ in range(CLIENTS)]
        for dealer in dealers:
            dealer.send(b"here")
        os.waitpid(pid, os.WUNTRACED)
        for dealer in dealers:
            dealer.send_multipart([b"more", bytes(1 << 20), b"than it takes"])
        os.kill(pid, signal.SIGKILL)
        for dealer in dealers:
            dealer.close()
        os.waitpid(pid, 0)
        context.term()
        os.close(reading)
        os.close(writing)
"""


def test_a_dealer_may_be_closed_while_its_server_dies_in_the_middle_of_a_request() -> None:
    """With LINGER 0, libzmq aborts the process in most runs of this program."""
    done = subprocess.run([sys.executable, "-c", CLOSING], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
