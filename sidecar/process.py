"""What every process that serves needs of the machine: its loop, its certificate, the key of its hashes.

It knows nothing of requests, policies or other processes.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

from sidecar.config.settings import Settings
from sidecar.errors import ConfigError


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """The certificate of the traffic port; None without one. Raises ConfigError when it cannot be read."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"tls_cert {settings.tls_cert}: {error}; give a readable PEM certificate and its key"
        ) from None
    return context


def salt_of(settings: Settings) -> bytes:
    """The key of all keyed hashes: from the file, else from the service's name (equal in all pods, but no secret).

    Raises:
        ConfigError: the file cannot be read.
    """
    secret = settings.service.encode()
    if settings.salt_file is not None:
        try:
            secret = settings.salt_file.read_bytes()
        except OSError as error:
            raise ConfigError(f"salt_file {settings.salt_file}: {error.strerror}; give a readable file") from None
    return hashlib.blake2b(secret, digest_size=32).digest()


def place(error: BaseException) -> str:
    """File and line of the innermost frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is uvloop; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
