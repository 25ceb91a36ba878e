"""TLS of secure WebSockets: the certificate that we show, and the check of those that we are shown.

Who the peer is, noise proves inside the WebSocket; TLS is there because browsers demand it.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Final

import trio
from cryptography import x509

from kernel_proc.p2p.addresses import Endpoint
from kernel_proc.p2p.api import DialError
from logos_process.logs import fields

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0
"""Least seconds between two checks of the files."""


class ServerCertificate:
    """Key and certificate chain of this host, in PEM files that another program renews.

    The files are checked when a connection comes in, at the cost of two `stat` calls and no task. If a pair
    does not load, the previous one stays in use: the two files are never replaced at the same moment.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raise OSError or ValueError, with the path of the file."""
        self._certificate = certificate
        self._key = key
        self._seen = self._stamp()
        self._context, self._expires = self._load()
        self._next_look = 0.0
        self._trouble = ""

    def _stamp(self) -> tuple[object, ...]:
        """What changes when a file, or a link to it, is replaced."""
        found = [path.stat() for path in (self._certificate, self._key)]
        # ctime: a key that becomes readable by chmod, or a copy that keeps the time, has the old mtime.
        return tuple((one.st_dev, one.st_ino, one.st_ctime_ns, one.st_size) for one in found)

    @property
    def expires(self) -> float:
        """When the certificate in use expires, in seconds since 1970."""
        self._look()
        return self._expires

    def _load(self) -> tuple[ssl.SSLContext, float]:
        """Return the context, and when its certificate expires. Raise OSError or ValueError."""

        def encrypted() -> str:
            raise ValueError(f"{self._key} is encrypted: a node cannot ask for the passphrase")

        for path in (self._certificate, self._key):
            path.open("rb").close()  # the error of ssl does not name the file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, encrypted)
        except ssl.SSLError as error:
            what = error.reason or str(error)
            raise ValueError(
                f"{self._certificate} and {self._key} are not a certificate chain and its key in PEM: {what}"
            ) from None
        own = x509.load_pem_x509_certificate(self._certificate.read_bytes())  # the first of the chain
        return context, own.not_valid_after_utc.timestamp()

    def _look(self) -> None:
        now = trio.current_time()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            self._context, self._expires = self._load()
        except (OSError, ValueError) as error:
            if str(error) != self._trouble:
                log.warning("the previous certificate stays in use", extra=fields(reason=str(error)))
            self._trouble = str(error)
        else:
            self._trouble = ""
            log.info("certificate loaded", extra=fields(file=str(self._certificate)))

    async def handshake(self, tcp: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """Perform the server side. Raise trio.BrokenResourceError."""
        self._look()
        stream = trio.SSLStream(tcp, self._context, server_side=True, https_compatible=True)
        await stream.do_handshake()
        return stream


def client_context() -> ssl.SSLContext:
    """Return a context that trusts the authorities of the system, or of SSL_CERT_FILE. Blocking."""
    return ssl.create_default_context()


async def client_handshake(
    tcp: trio.SocketStream, context: ssl.SSLContext, endpoint: Endpoint
) -> trio.SSLStream[trio.SocketStream]:
    """Perform the client side. Raise DialError, with what is wrong with the certificate."""
    stream = trio.SSLStream(tcp, context, server_hostname=endpoint.certified, https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = f"its certificate is not accepted: {cause.verify_message}"
        elif isinstance(cause, ssl.SSLError):
            reason = f"TLS handshake failed: {cause.reason or cause}"
        else:
            reason = "closed in the TLS handshake"
        raise DialError(f"{endpoint.text()}: {reason}") from None
    return stream
