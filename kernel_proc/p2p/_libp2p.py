"""The one door to py-libp2p: everything this room takes from the library is taken from here.

Four things happen at this door and nowhere else:

* the version is asserted, because this room stands on internals of exactly that release;
* the logging set-up that `import libp2p` performs is undone: the library may log through the ordinary
  hierarchy, and the process decides what becomes of it;
* only what is used is loaded: the library's packages import all of it (QUIC, HTTP clients, mDNS), which takes
  30 MB and most of the start, for a dozen modules;
* only what is sound is let in: keys, peer ids, the noise XX handshake, the messages of identify and of peer
  records. Connections, muxers and streams are this room's own (see `host`), since the library's end the
  process on a malformed frame, go deaf after 250 inbound connections and do not enforce the receive window.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

REQUIRED_VERSION = "0.8.1"


class WrongLibp2pVersionError(ImportError):
    """The installed py-libp2p is not the release this room was written and tested against."""


def check_version(installed: str) -> None:
    """Raise WrongLibp2pVersionError unless `installed` is the pinned release."""
    if installed != REQUIRED_VERSION:
        raise WrongLibp2pVersionError(
            f"py-libp2p {REQUIRED_VERSION} is required, {installed} is installed: "
            f"install the locked requirements (pip install 'libp2p=={REQUIRED_VERSION}')"
        )


@contextmanager
def _logging_untouched() -> Iterator[None]:
    """Keep the import from opening log files or threads, then put its logger back into the hierarchy."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    debug = os.environ.pop("LIBP2P_DEBUG", None)  # with it set, the import opens a file and a thread
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
        # Every failure reaches us as an exception and is counted; the library's own lines would let strangers
        # write our log, and its debug lines come by the hundred per handshake.
        library.setLevel(logging.CRITICAL)
        logging.getLogger("multiaddr").setLevel(logging.WARNING)


_BARE: Final = (
    "libp2p",
    "libp2p.identity",
    "libp2p.identity.identify",
    "libp2p.pubsub",
    "libp2p.security",
    "libp2p.tools",
    "libp2p.transport",
    "libp2p.transport.quic",
)
"""Packages whose `__init__` does nothing but import what we do not use."""


def _enter_bare_packages() -> None:
    """Let the packages be found without running their `__init__`: their modules are then loaded one by one.

    Nothing of the kind happens if somebody has loaded the library before us: two halves of it would not fit.
    """
    if "libp2p" in sys.modules:
        return
    root = importlib.util.find_spec("libp2p")
    if root is None or not root.submodule_search_locations:
        raise ImportError("py-libp2p is installed without its files")
    base = Path(root.submodule_search_locations[0])
    for name in _BARE:
        spec = ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = [str(base.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    # `libp2p.custom_types` names this one class in an alias; the real one brings in all of aioquic.
    stream = importlib.util.module_from_spec(ModuleSpec("libp2p.transport.quic.stream", loader=None))
    vars(stream)["QUICStream"] = type("QUICStream", (), {})
    sys.modules[stream.__name__] = stream


check_version(importlib.metadata.version("libp2p"))

with _logging_untouched(), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own deprecations are not ours to fix
    _enter_bare_packages()
    import multiaddr
    from libp2p.abc import IRawConnection
    from libp2p.connection_types import ConnectionType
    from libp2p.crypto.keys import KeyPair, PublicKey
    from libp2p.crypto.rsa import RSAPublicKey
    from libp2p.crypto.secp256k1 import Secp256k1PrivateKey
    from libp2p.crypto.serialization import deserialize_public_key
    from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
    from libp2p.identity.identify.pb.identify_pb2 import Identify
    from libp2p.peer.id import ID
    from libp2p.peer.pb.envelope_pb2 import Envelope
    from libp2p.peer.pb.peer_record_pb2 import PeerRecord as RecordMessage
    from libp2p.security.noise.io import NoiseTransportReadWriter
    from libp2p.security.noise.patterns import PatternXX
    from libp2p.security.secure_session import SecureSession

Multiaddr = multiaddr.Multiaddr

__all__ = [
    "ID",
    "REQUIRED_VERSION",
    "ConnectionType",
    "Envelope",
    "IRawConnection",
    "Identify",
    "KeyPair",
    "Multiaddr",
    "NoiseTransportReadWriter",
    "PatternXX",
    "PublicKey",
    "RSAPublicKey",
    "RecordMessage",
    "Secp256k1PrivateKey",
    "SecureSession",
    "WrongLibp2pVersionError",
    "check_version",
    "create_x25519_key_pair",
    "deserialize_public_key",
]
