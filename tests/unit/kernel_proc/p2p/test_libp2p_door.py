from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from kernel_proc.p2p._libp2p import (
    REQUIRED_VERSION,
    WrongLibp2pVersionError,
    _enter_bare_packages,
    check_version,
)

ROOT = Path(__file__).parents[4]

PROBE = """
import logging, os, sys, threading
root = logging.getLogger()
marker = logging.NullHandler()
root.addHandler(marker)
root.setLevel(logging.ERROR)
import kernel_proc.p2p.host
library = logging.getLogger("libp2p")
assert root.handlers == [marker] and root.level == logging.ERROR, root.handlers
assert library.handlers == [] and library.propagate
assert threading.active_count() == 1, threading.enumerate()
assert os.environ["LIBP2P_DEBUG"] == "DEBUG"
print("untouched")
"""


def test_another_release_is_refused_with_a_clear_error() -> None:
    check_version(REQUIRED_VERSION)
    with pytest.raises(WrongLibp2pVersionError, match=r"py-libp2p 0\.8\.1 is required, 0\.8\.2 is installed"):
        check_version("0.8.2")


def test_importing_leaves_logging_files_and_threads_alone(tmp_path: Path) -> None:
    environment = {"LIBP2P_DEBUG": "DEBUG", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "untouched\n"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_the_interface_can_be_imported_without_libp2p() -> None:
    probe = "import sys, kernel_proc.p2p.api; assert 'libp2p' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], env={"PYTHONPATH": str(ROOT)}, check=True)


def test_the_node_loads_only_what_it_uses_of_the_library() -> None:
    probe = """
import sys, kernel_proc.node
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"aioquic", "httpx", "requests", "grpc", "zeroconf", "aiortc", "asyncio",
    "anyio", "fastecdsa", "miniupnpc", "trio_typing", "trio_websocket"}))
assert "libp2p.host.basic_host" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", probe],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_library_that_is_loaded_already_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = types.ModuleType("libp2p")
    monkeypatch.setitem(sys.modules, "libp2p", ours)
    before = dict(sys.modules)
    _enter_bare_packages()
    assert sys.modules == before
    assert sys.modules["libp2p"] is ours


def test_an_rsa_key_made_to_be_slow_is_refused_before_noise_verifies_with_it() -> None:
    from Crypto.PublicKey import RSA
    from libp2p.security.noise.messages import NoiseHandshakePayload
    from libp2p.security.noise.pb import noise_pb2

    def payload(exponent: int) -> bytes:
        key = RSA.construct(((1 << 4095) | 1, exponent), consistency_check=False).export_key("DER")
        size = bytes((len(key) & 0x7F | 0x80, len(key) >> 7))
        message = noise_pb2.NoiseHandshakePayload(
            identity_key=b"\x08\x00\x12" + size + key, identity_sig=bytes(512)
        )
        return bytes(message.SerializeToString())

    with pytest.raises(ValueError, match="exponent"):
        NoiseHandshakePayload.deserialize(payload((1 << 4000) | 1))
    assert NoiseHandshakePayload.deserialize(payload(65537)).id_pubkey is not None
