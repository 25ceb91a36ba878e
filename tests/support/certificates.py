"""Certificates of an authority of the test, in the files that a node reads."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Certificates:
    """An authority, and the certificate that it gave a host with `names`."""

    def __init__(self, directory: Path, *names: str, until: datetime | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self._authority = trustme.CA()
        self.names = names
        self._until = until
        self.trusted = directory / "authority.pem"
        self.chain = directory / "fullchain.pem"
        self.key = directory / "privkey.pem"
        self._authority.cert_pem.write_to_path(self.trusted)
        self.renew()

    def renew(self) -> None:
        """Replace key and certificate, one after the other as those who renew them do."""
        issued = self._authority.issue_cert(*self.names, not_after=self._until)
        for path, content in (
            (self.chain, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
            (self.key, issued.private_key_pem.bytes()),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)

    @property
    def serial(self) -> int:
        """The serial number of the certificate in the file."""
        return self._certificate.serial_number

    @property
    def pin(self) -> str:
        """The key as browsers pin it: base64 of the SHA-256 of its SubjectPublicKeyInfo."""
        spki = self._certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(spki).digest()).decode()

    @property
    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.chain.read_bytes())

    @property
    def options(self) -> tuple[str, ...]:
        """What makes the WebSockets of a kernel secure ones."""
        return (
            "--websocket-secure-support=true",
            f"--websocket-secure-cert-path={self.chain}",
            f"--websocket-secure-key-path={self.key}",
        )
