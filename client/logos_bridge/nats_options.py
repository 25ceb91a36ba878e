"""How the bridge connects to NATS: the client's options, from the configuration."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Any, Final

from ipc_schema.config.bridge import NatsOptions
from logos_process.exits import ExitCode, StartError

_RECONNECT_SECONDS: Final = 0.2
_PING_SECONDS: Final = 5


def connect_options(config: NatsOptions) -> dict[str, Any]:
    """Return the arguments of `connect`. Raises `StartError` for files that cannot be used."""
    options: dict[str, Any] = {
        "servers": list(config.nats_url),
        "name": "logos-bridge",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": _RECONNECT_SECONDS,
        "connect_timeout": 3,
        "ping_interval": _PING_SECONDS,
        "max_outstanding_pings": 2,
    }
    for key, name, path in (
        ("user_credentials", "nats-credentials", config.nats_credentials),
        ("nkeys_seed", "nats-nkey-seed", config.nats_nkey_seed),
    ):
        if path is not None:
            _check_secret(name, path)
            options[key] = path
    tls = _tls(config)
    if tls is not None:
        options["tls"] = tls
    return options


def _check_secret(name: str, path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise StartError.of(f"{name}: {path}", error) from error
    if stat.S_IMODE(mode) & 0o077:
        raise StartError(f"{name}: {path} can be read by other users: make it 0600", ExitCode.CONFIG)


def _tls(config: NatsOptions) -> ssl.SSLContext | None:
    if config.nats_tls_ca is None and config.nats_tls_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=config.nats_tls_ca)
        if config.nats_tls_cert is not None:
            context.load_cert_chain(config.nats_tls_cert, config.nats_tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"nats-tls-ca, nats-tls-cert: {error}", ExitCode.CONFIG) from error
    return context
