"""Signed node lists in DNS (EIP-1459): parse single entries. Pure: no queries, no time.

A list is a tree of TXT records below a domain. Its root is signed by the key in the list's URL; every other
entry is named by its hash, so a DNS server can withhold entries but not forge them. An entry is a branch
(hashes of others), a node record, or a link to another list.

Errors: TreeError (a ValueError) is the root; TreeFormatError for malformed text, TreeSignatureError,
TreeHashError.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode, urlsafe_b64decode
from typing import Final, NamedTuple

from kernel_proc.discovery.enr import Enr, EnrError
from kernel_proc.discovery.enr_identity import keccak256, verify

MAX_TEXT: Final = 1024
"""Maximum size of an entry; EIP-1459 wants them to fit into 512-byte packets."""
HASH_BYTES: Final = 16
MAX_SEQ: Final = 2**63

_ROOT: Final = re.compile(
    r"enrtree-root:v1 e=([A-Z2-7]{16,52}) l=([A-Z2-7]{16,52}) seq=([0-9]{1,19}) sig=([A-Za-z0-9_=-]{86,90})"
)
_URL: Final = re.compile(r"enrtree://([A-Z2-7]{53})@([A-Za-z0-9._-]{1,253})")
_HASH: Final = re.compile(r"[A-Z2-7]{26}")
_BRANCH: Final = "enrtree-branch:"


class TreeError(ValueError):
    """Not an acceptable part of a list."""


class TreeFormatError(TreeError):
    """The text is not an entry, root or URL."""


class TreeSignatureError(TreeError):
    """The root is not signed by the key of the URL."""


class TreeHashError(TreeError):
    """An entry does not match the hash in its name."""


class TreeUrl(NamedTuple):
    """`enrtree://<key>@<domain>`."""

    public_key: bytes
    """secp256k1, compressed, 33 bytes."""
    domain: str
    """In lower case, without trailing dot."""

    def __str__(self) -> str:
        return f"enrtree://{b32encode(self.public_key).rstrip(b'=').decode()}@{self.domain}"


class TreeRoot(NamedTuple):
    """The entry points of a list."""

    nodes: str
    """Hash of the entry that leads to node records."""
    links: str
    """Hash of the entry that leads to other lists."""
    seq: int


class Branch(NamedTuple):
    """Hashes of further entries."""

    hashes: tuple[str, ...]


class Link(NamedTuple):
    """A link to another list."""

    url: TreeUrl


Entry = Branch | Link | Enr


def hash_of(text: str) -> str:
    """Return the name of an entry: base32 of the first 16 bytes of its keccak-256, 26 characters."""
    return b32encode(keccak256(text.encode("ascii"))[:HASH_BYTES]).rstrip(b"=").decode()


def parse_url(text: str) -> TreeUrl:
    """Parse the URL of a list. Raise TreeFormatError."""
    match = _URL.fullmatch(text)
    domain = match[2].rstrip(".").lower() if match else ""
    if match is None or "." not in domain or ".." in domain:
        raise TreeFormatError(f"{text[:120]!r} is not enrtree://<key in base32>@<domain>")
    return TreeUrl(b32decode(match[1] + "==="), domain)


def parse_root(text: str, public_key: bytes) -> TreeRoot:
    """Parse a root and verify its signature. Raise TreeFormatError or TreeSignatureError."""
    match = _ROOT.fullmatch(text) if len(text) <= MAX_TEXT and text.isascii() else None
    if match is None or int(match[3]) >= MAX_SEQ:
        raise TreeFormatError(f"not a list root: {text[:80]!r}")
    signed = text.rpartition(" sig=")[0]
    try:
        signature = urlsafe_b64decode(match[4].rstrip("=") + "==")
    except ValueError:
        raise TreeFormatError("the signature is not base64url") from None
    # 65 bytes: r, s and the recovery id, which is not needed because the key is known.
    if len(signature) != 65 or not verify(public_key, signature[:64], keccak256(signed.encode())):
        raise TreeSignatureError("the root is not signed by the key of the URL")
    return TreeRoot(_check_hash(match[1]), _check_hash(match[2]), int(match[3]))


def _check_hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise TreeFormatError(f"{text[:60]!r} is not an entry name")
    return text


def parse_entry(text: str, name: str) -> Entry:
    """Parse the entry found under this name. Raise TreeHashError or TreeFormatError."""
    if len(text) > MAX_TEXT or not text.isascii():
        raise TreeFormatError(f"entry of {len(text)} characters, or not ASCII")
    if hash_of(text) != name:
        raise TreeHashError(f"entry {name} does not match its hash")
    if text.startswith(_BRANCH):
        # EIP-1459, DNS Record Structure: the hashes of the subtree's entries, separated by commas.
        names = text.removeprefix(_BRANCH)
        return Branch(tuple(map(_check_hash, names.split(","))) if names else ())
    if text.startswith("enrtree://"):
        return Link(parse_url(text))
    try:
        return Enr.from_text(text)
    except EnrError as error:
        raise TreeFormatError(f"entry {name}: {error}") from None
