"""The node key: the secp256k1 private key that determines the peer id, kept across restarts.

The secret never appears in `repr`, logs or errors.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import coincurve

from kernel_proc.p2p._libp2p import ID, KeyPair, Secp256k1PrivateKey
from kernel_proc.p2p.api import PeerIdText

KEY_BYTES = 32


class NodeKeyError(ValueError):
    """The key text or key file is unusable. The message names the file or the rule, never the key."""


class NodeKey:
    """A secp256k1 node key. Equality and repr use the peer id only."""

    __slots__ = ("_private", "_secret", "peer_id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise NodeKeyError(f"a node key has {KEY_BYTES} bytes, this one has {len(secret)}")
        try:
            self._private = Secp256k1PrivateKey(coincurve.PrivateKey(secret))
        except ValueError:
            raise NodeKeyError("the node key is not a valid secp256k1 secret") from None
        self._secret = secret
        self.peer_id: PeerIdText = ID.from_pubkey(self._private.get_public_key()).to_base58()

    @classmethod
    def generate(cls) -> NodeKey:
        """Return a new random key."""
        while True:
            try:
                return cls(secrets.token_bytes(KEY_BYTES))
            except NodeKeyError:
                continue  # zero or beyond the group order: probability 2^-128

    @property
    def public_key_bytes(self) -> bytes:
        """The compressed public key, 33 bytes."""
        return self._private.get_public_key().to_bytes()

    def secret_bytes(self) -> bytes:
        """The 32 secret bytes, for signing the ENR. Do not log."""
        return self._secret

    def libp2p_key_pair(self) -> KeyPair:
        """Return the pair in py-libp2p's type; only for use inside this room."""
        return KeyPair(self._private, self._private.get_public_key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeKey) and other.peer_id == self.peer_id

    def __hash__(self) -> int:
        return hash(self.peer_id)

    def __repr__(self) -> str:
        return f"NodeKey(peer_id={self.peer_id!r})"

    def __reduce__(self) -> str:
        raise TypeError("a node key cannot be pickled")


def node_key_from_hex(text: str) -> NodeKey:
    """Parse a key of 64 hex digits, with or without 0x, as in the `nodekey` option.

    Raise NodeKeyError, without repeating the text.
    """
    digits = text.strip().removeprefix("0x").removeprefix("0X")
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        raise NodeKeyError("a node key is 64 hex digits") from None
    return NodeKey(secret)


def load_or_create_node_key(path: Path) -> NodeKey:
    """Return the key in `path`, creating it on first start.

    The file contains 64 hex digits and has mode 0600, in a directory created with mode 0700. It is written
    atomically, and two processes that start at once agree on one key. A file readable by others is rejected.
    Raise NodeKeyError for a damaged or exposed file, OSError for disk errors.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        return _load(path)
    except FileNotFoundError:
        pass
    _create(path, NodeKey.generate())
    return _load(path)


def _load(path: Path) -> NodeKey:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise NodeKeyError(
                f"{path} has mode {mode:04o}: a node key must be readable by its owner only (0600)"
            )
        text = file.read(4 * KEY_BYTES)
    try:
        return node_key_from_hex(text.decode("ascii"))
    except ValueError:
        raise NodeKeyError(f"{path} does not hold a node key (64 hex digits)") from None


def _create(path: Path, key: NodeKey) -> None:
    """Write a private temporary file, flush it and link it into place: no partial key, no race."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(key.secret_bytes().hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # another process was first: use its key
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)
