"""An RSA key whose exponent makes every verification slow, in a noise handshake with a live kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from Crypto.PublicKey import RSA

from kernel_proc.p2p import addresses, transport
from kernel_proc.p2p._libp2p import ID, PatternXX, create_x25519_key_pair
from kernel_proc.p2p.buffered import BufferedTransport, HandshakeConnection
from kernel_proc.p2p.keys import NodeKey
from kernel_proc.p2p.multistream import select_one_of
from tests.support.aio import trio_test
from tests.support.kernel_process import KernelProcess, short_directory
from tests.unit.kernel_proc.p2p.support import until

pytestmark = pytest.mark.integration

COUNT = 30
ORDINARY, HUGE = 65537, (1 << 4000) | 1


class ForgedPayload:
    """A handshake payload with an RSA-4096 key, whose signature is wrong."""

    def __init__(self, exponent: int) -> None:
        key = RSA.construct(((1 << 4095) | 1, exponent), consistency_check=False).export_key("DER")
        public = b"\x08\x00\x12" + varint(len(key)) + key
        self._data = b"\x0a" + varint(len(public)) + public + b"\x12" + varint(512) + bytes(512)

    def serialize(self) -> bytes:
        return self._data


class Forger(PatternXX):
    """An initiator that is honest but for its identity."""

    payload: ForgedPayload

    def make_handshake_payload(self, extensions: object = None) -> ForgedPayload:  # type: ignore[override]
        return self.payload


def varint(number: int) -> bytes:
    return bytes((number & 0x7F | 0x80, number >> 7))


def cpu_ticks(pid: int) -> int:
    """Work done so far, in clock ticks of this process alone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def knock(address: str, exponent: int) -> None:
    """One handshake with a forged identity, to the end that the other side makes."""
    endpoint = addresses.parse(address)
    key = NodeKey.generate().libp2p_key_pair()
    forger = Forger(ID.from_pubkey(key.public_key), key.private_key, create_x25519_key_pair().private_key)
    forger.payload = ForgedPayload(exponent)
    stream, tcp = await transport.dial(endpoint)
    async with tcp:
        buffered = BufferedTransport(stream)
        await select_one_of(buffered, ("/noise",))
        await forger.handshake_outbound(HandshakeConnection(buffered, initiator=True), endpoint.peer_id)
        with suppress(OSError):
            while await stream.receive_some(4096):
                pass


@trio_test(120)
async def test_an_rsa_key_made_to_be_slow_costs_no_more_than_another() -> None:
    """It is refused before it verifies anything; so the work of a forgery does not grow with the exponent."""
    with short_directory() as path, KernelProcess(path / "k", "--log-level=DEBUG") as kernel:
        assert kernel.process is not None
        address, pid = kernel.address(), kernel.process.pid

        async def work(exponent: int, reason: str) -> int:
            before, refused = cpu_ticks(pid), kernel.log.read_text().count(reason)
            for _ in range(COUNT):
                await knock(address, exponent)
            await until(lambda: kernel.log.read_text().count(reason) - refused == COUNT)
            return cpu_ticks(pid) - before

        ordinary = await work(ORDINARY, "InvalidSignature")
        slow = await work(HUGE, "oversized exponent")
        spare = os.sysconf("SC_CLK_TCK") // 10
        assert slow <= 2 * ordinary + spare, "20 ms of each would be 60 ticks of 10 ms"
        assert kernel.info("Version"), "and it goes on"
