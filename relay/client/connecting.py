"""What a connection that could not be made is called."""

from __future__ import annotations

from OpenSSL.SSL import Error as SSLError
from service_identity import CertificateError, VerificationError
from twisted.internet.defer import CancelledError
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.logger import Logger

from relay.client.answers import NoAnswer

log = Logger()


class TLSFailure(Exception):
    """The TLS handshake failed, the certificate is not good or is another's: nothing was sent."""


#: The kinds that have a label of their own; every other is ``error``.
_LABELS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (ConnectionRefusedError, "refused"),
    (DNSLookupError, "dns"),
    ((TLSFailure, SSLError, VerificationError, CertificateError), "tls"),
    ((TimeoutError, ConnectingCancelledError), "timeout"),
)


def label(error: Exception) -> str:
    """What *error* is called, ``""`` when it has no label of its own."""
    return next((name for kinds, name in _LABELS if isinstance(error, kinds)), "")


def unreached(error: Exception) -> NoAnswer:
    """What *error*, raised while connecting, means for the request.

    Called while *error* is handled, and logs it when it is none of those that a network makes.
    """
    if not label(error) and not isinstance(error, ConnectError | OSError | CancelledError):
        log.failure("unexpected error in connecting to the platform")
    return NoAnswer(label(error) or "error", sent=False)
