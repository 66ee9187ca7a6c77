"""The grammar of MAIL and RCPT (RFC 5321 section 4.1.2, RFC 6531) and the values they give.  Pure.

An address is taken as widely as mail in the real world needs: dots may stand anywhere in the local part, and a
domain may have one label.  What is refused here is refused for its syntax alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from attrs import frozen
from twisted.mail.smtp import Address, User

from relay.errors import PermanentFailure, Reason

#: Longest address, in octets: a local part of 64, "@", and a domain of 255 (RFC 5321 section 4.5.3.1).
LONGEST_ADDRESS = 320

_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\xff-]+"
_QUOTED = rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\x20-\x7e])*"'
_LABEL = rb"[A-Za-z0-9_\x80-\xff]+(?:-+[A-Za-z0-9_\x80-\xff]+)*"
_DOMAIN = rb"%b(?:\.%b)*\.?|\[[A-Za-z0-9:.]+\]" % (_LABEL, _LABEL)
_PATH = rb" *<(?:@[^<>:\s]+:)?(?:(%b|%b)@(%b))?>(?: +(.*))?" % (_ATOM, _QUOTED, _DOMAIN)
_FROM = re.compile(rb"(?i:FROM:)" + _PATH, re.DOTALL)
_TO = re.compile(rb"(?i:TO:)" + _PATH, re.DOTALL)
_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
_DIGITS = re.compile(rb"[0-9]{1,20}")


class Mailbox(Address):
    """A path that has been parsed; ``str`` of it is UTF-8 decoded, unlike that of Twisted's own class."""

    addrstr: bytes

    # Twisted's initializer would parse the address a second time, by other rules.
    def __init__(self, local: bytes, domain: bytes) -> None:
        self.local = local
        self.domain = domain
        self.addrstr = local + b"@" + domain if local else b""

    def __bytes__(self) -> bytes:
        return self.addrstr

    def __str__(self) -> str:
        return self.addrstr.decode()


class Recipient(User):
    """One RCPT TO, as :meth:`twisted.mail.interfaces.IMessageDelivery.validateTo` takes it."""

    # Twisted's initializer would parse the addresses a second time, by other rules.
    def __init__(self, dest: Mailbox, helo: tuple[bytes, bytes], protocol: Any, orig: Mailbox) -> None:
        self.dest = dest
        self.helo = helo
        self.protocol = protocol
        self.orig = orig

    def __str__(self) -> str:
        return str(self.dest)


@frozen
class Sender:
    """MAIL FROM and its parameters; *size* is 0 where none was declared."""

    mailbox: Mailbox
    size: int
    smtputf8: bool


@lru_cache(maxsize=1024)  # senders repeat
def parse_mail(argument: bytes) -> Sender:
    """What stands behind ``MAIL``: ``FROM:<path> [SIZE=n] [BODY=7BIT|8BITMIME] [SMTPUTF8] [AUTH=…]``.

    :raises PermanentFailure: the syntax, an unknown parameter, or a non-ASCII address without SMTPUTF8.
    """
    mailbox, rest = _path(argument, _FROM, Reason.SENDER_SYNTAX)
    parameters = _parameters(rest)
    smtputf8 = b"SMTPUTF8" in parameters
    _check_ascii(mailbox, smtputf8)
    size = 0
    for name, value in parameters.items():
        if name == b"SIZE":
            size = _size(value)
        elif name == b"BODY":
            if value is None or value.upper() not in (b"7BIT", b"8BITMIME"):
                raise PermanentFailure(Reason.ARGUMENTS, "BODY is 7BIT or 8BITMIME")
        elif name == b"SMTPUTF8":
            if value is not None:
                raise PermanentFailure(Reason.ARGUMENTS, "SMTPUTF8 takes no value")
        elif name == b"AUTH":  # RFC 4954 section 5: taken, and not trusted
            if value is None:
                raise PermanentFailure(Reason.ARGUMENTS, "AUTH needs a value")
        else:
            raise PermanentFailure(Reason.UNKNOWN_PARAMETER, f"MAIL parameter not recognized: {name.decode()}")
    return Sender(mailbox, size, smtputf8)


def parse_rcpt(argument: bytes, smtputf8: bool) -> Mailbox:
    """What stands behind ``RCPT``: ``TO:<path>``; it has no parameters here.

    :raises PermanentFailure: the syntax, a parameter, or a non-ASCII address without SMTPUTF8.
    """
    mailbox, rest = _path(argument, _TO, Reason.RECIPIENT_SYNTAX)
    if not mailbox.local:
        raise PermanentFailure(Reason.RECIPIENT_SYNTAX)
    for name in _parameters(rest) if rest else ():
        raise PermanentFailure(Reason.UNKNOWN_PARAMETER, f"RCPT parameter not recognized: {name.decode()}")
    if not argument.isascii():
        _check_ascii(mailbox, smtputf8)
    return mailbox


def _path(argument: bytes, syntax: re.Pattern[bytes], reason: Reason) -> tuple[Mailbox, bytes]:
    """The path that *argument* begins with, and what follows it."""
    match = syntax.fullmatch(argument)
    if match is None:
        raise PermanentFailure(reason)
    local, domain, rest = match.groups(b"")
    mailbox = Mailbox(local, domain)
    if len(mailbox.addrstr) > LONGEST_ADDRESS:
        raise PermanentFailure(reason, f"The address is longer than {LONGEST_ADDRESS} octets")
    return mailbox, rest


def _parameters(rest: bytes) -> dict[bytes, bytes | None]:
    """``NAME[=value]`` by upper-case name."""
    found: dict[bytes, bytes | None] = {}
    for word in rest.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise PermanentFailure(Reason.ARGUMENTS, "Parameters are NAME or NAME=value, separated by spaces")
        name = match[1].upper()
        if name in found:
            raise PermanentFailure(Reason.ARGUMENTS, f"{name.decode()} is given twice")
        found[name] = match[2]
    return found


def _size(value: bytes | None) -> int:
    """The declared size in octets (RFC 1870 section 3: one to twenty digits)."""
    if value is None or _DIGITS.fullmatch(value) is None:
        raise PermanentFailure(Reason.ARGUMENTS, "SIZE is a number of octets, 1 to 20 digits")
    return int(value)


def _check_ascii(mailbox: Mailbox, smtputf8: bool) -> None:
    if not smtputf8 and not mailbox.addrstr.isascii():
        raise PermanentFailure(Reason.NON_ASCII_ADDRESS)
