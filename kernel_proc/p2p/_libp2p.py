"""The single import point of py-libp2p for this room.

Five things happen here and nowhere else:

* the version is asserted, because this room depends on internals of exactly that release;
* the logging set-up of `import libp2p` is undone: the library logs through the ordinary hierarchy, which
  the process configures;
* only what is used is loaded: the packages' `__init__` import everything (QUIC, HTTP clients, mDNS), which
  takes 30 MB and most of the start-up time;
* RSA keys with a huge exponent are rejected before verification, in noise and in peer records;
* only sound parts are used: keys, peer ids, the noise XX handshake, the protobufs of identify and of peer
  records. Connections, muxers and streams are our own (see `host`), because those of the library end the
  process on a malformed frame, stop accepting after 250 inbound connections, and ignore the receive window.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

REQUIRED_VERSION = "0.8.1"


class WrongLibp2pVersionError(ImportError):
    """The installed py-libp2p is not the release this room was written for and tested against."""


def check_version(installed: str) -> None:
    """Raise WrongLibp2pVersionError unless `installed` is the pinned release."""
    if installed != REQUIRED_VERSION:
        raise WrongLibp2pVersionError(
            f"py-libp2p {REQUIRED_VERSION} is required, {installed} is installed: "
            f"install the locked requirements (pip install 'libp2p=={REQUIRED_VERSION}')"
        )


@contextmanager
def _logging_untouched() -> Iterator[None]:
    """Prevent the import from opening log files or threads, and restore the library's logger afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    debug = os.environ.pop("LIBP2P_DEBUG", None)  # if set, the import opens a file and a thread
    try:
        yield
    finally:
        if debug is not None:
            os.environ["LIBP2P_DEBUG"] = debug
        root.handlers[:] = handlers
        root.setLevel(level)
        library = logging.getLogger("libp2p")
        library.handlers.clear()
        library.propagate = True
        # Every failure reaches us as an exception and is counted. The library's own lines would let remote
        # peers fill our log, and it writes hundreds of debug lines per handshake.
        library.setLevel(logging.CRITICAL)
        logging.getLogger("multiaddr").setLevel(logging.WARNING)


_BARE: Final = (
    "libp2p",
    "libp2p.identity",
    "libp2p.identity.identify",
    "libp2p.pubsub",
    "libp2p.security",
    "libp2p.tools",
    "libp2p.tools.anyio_service",
    "libp2p.transport",
    "libp2p.transport.quic",
)
"""Packages whose `__init__` only imports what we do not use."""


_STAND_INS: Final[tuple[tuple[str, str, type], ...]] = (
    # `libp2p.custom_types` uses this class in a type alias; the real module loads all of aioquic.
    ("libp2p.transport.quic.stream", "QUICStream", object),
    # `libp2p.abc` derives interfaces from it that we do not use; the real module loads anyio and trio-typing,
    # whose old stubs would hide trio's own types from mypy.
    ("libp2p.tools.anyio_service.api", "ServiceAPI", ABC),
)
"""Modules replaced by a single empty class: module, class, base."""


def _enter_bare_packages() -> None:
    """Make the library's packages importable without running their `__init__`, to load modules individually.

    No-op if the library is already loaded: the two halves would not fit together.
    """
    if "libp2p" in sys.modules:
        return
    root = importlib.util.find_spec("libp2p")
    if root is None or not root.submodule_search_locations:
        raise ImportError("py-libp2p is installed without its files")
    directory = Path(root.submodule_search_locations[0])
    for name in _BARE:
        spec = ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = [str(directory.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    for name, class_name, base in _STAND_INS:
        module = importlib.util.module_from_spec(ModuleSpec(name, loader=None))
        vars(module)[class_name] = type(class_name, (base,), {})
        sys.modules[name] = module


check_version(importlib.metadata.version("libp2p"))

with _logging_untouched(), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own deprecations are not ours to fix
    _enter_bare_packages()
    import multiaddr
    from libp2p.abc import IRawConnection as IRawConnection
    from libp2p.connection_types import ConnectionType as ConnectionType
    from libp2p.crypto import serialization as _serialization
    from libp2p.crypto.keys import KeyPair as KeyPair
    from libp2p.crypto.keys import PublicKey as PublicKey
    from libp2p.crypto.rsa import RSAPublicKey as RSAPublicKey
    from libp2p.crypto.secp256k1 import Secp256k1PrivateKey as Secp256k1PrivateKey
    from libp2p.crypto.serialization import deserialize_public_key as deserialize_public_key
    from libp2p.crypto.x25519 import create_new_key_pair
    from libp2p.identity.identify.pb.identify_pb2 import Identify as Identify
    from libp2p.peer.id import ID as ID
    from libp2p.peer.pb.envelope_pb2 import Envelope as Envelope
    from libp2p.peer.pb.peer_record_pb2 import PeerRecord
    from libp2p.security.noise.io import NoiseTransportReadWriter as NoiseTransportReadWriter
    from libp2p.security.noise.patterns import PatternXX as PatternXX
    from libp2p.security.secure_session import SecureSession as SecureSession

Multiaddr = multiaddr.Multiaddr
RecordMessage = PeerRecord
create_x25519_key_pair = create_new_key_pair

MAX_EXPONENT_BITS: Final = 32
"""All implementations use 65537. With an exponent of thousands of bits, a forged signature costs 20 ms to
reject."""


def _rsa_key(data: bytes) -> PublicKey:
    key = RSAPublicKey.from_bytes(data)
    if int(key.impl.e).bit_length() > MAX_EXPONENT_BITS:
        raise ValueError("RSA key with an oversized exponent")
    return key


for _kind, _reader in list(_serialization.key_type_to_public_key_deserializer.items()):
    if _reader == RSAPublicKey.from_bytes:
        _serialization.key_type_to_public_key_deserializer[_kind] = _rsa_key
