"""Which name in To belongs to which recipient (MESSAGE.md, "To")."""

from __future__ import annotations

from collections.abc import Sequence

#: (address, name) of each mailbox in To, as :attr:`relay.values.Message.to_names` has them.
ToNames = Sequence[tuple[str, str]]


def recipient_name(to_names: ToNames, recipient: str, sole: bool) -> str:
    """The name of one recipient, ``""`` if To has none for it.

    :param recipient: the address of RCPT TO.
    :param sole: whether the message has no other recipient.
    """
    return recipient_names(to_names, (recipient,) if sole else (recipient, ""))[0]


def recipient_names(to_names: ToNames, recipients: Sequence[str]) -> list[str]:
    """The name of each recipient of a message, in order; linear in both.

    A name goes to the recipient whose address it stands beside: domains compared without case, and local parts
    too where no mailbox has the same case.  The only mailbox in To names the only recipient, whatever its address.
    """
    if len(to_names) == len(recipients) == 1:
        return [to_names[0][1]]
    exact: dict[str, str] = {}
    folded: dict[str, str] = {}
    for address, name in to_names:
        if address and name:
            exact.setdefault(_domain_folded(address), name)
            folded.setdefault(address.lower(), name)
    return [exact.get(_domain_folded(each)) or folded.get(each.lower(), "") for each in recipients]


def _domain_folded(address: str) -> str:
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{domain.lower()}"
