"""Errors between the modules of this room; none of them leaves it (see api for those that do)."""

from __future__ import annotations


class ConnectionEnded(Exception):
    """The connection under us is gone or must go. `reason` is a short phrase for events and logs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProtocolViolation(ConnectionEnded):
    """The peer broke a rule of noise, yamux, mplex or multistream: the connection is closed."""


class NegotiationFailed(Exception):
    """The two sides agree on none of the protocols offered."""
