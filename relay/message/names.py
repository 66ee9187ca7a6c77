"""Which name in To belongs to which recipient (MESSAGE.md, "To")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: (address, name) of each mailbox in To, as :attr:`relay.values.Message.to_names` has them.
ToNames = Sequence[tuple[str, str]]


def recipient_name(to_names: ToNames, recipient: str, sole: bool) -> str:
    """The name of one recipient, ``""`` if To has none for it.

    A name goes to the recipient whose address it stands beside: domains compared without case, and local parts
    too where no mailbox has the same case.  The only mailbox in To names the only recipient, whatever its address.

    :param recipient: the address of RCPT TO.
    :param sole: whether the message has no other recipient.
    """
    if sole and len(to_names) == 1:
        return to_names[0][1]
    return _beside(_directory(to_names), recipient)


def recipient_names(to_names: ToNames, recipients: Sequence[str]) -> list[str]:
    """The name of each recipient of a message, in order: :func:`recipient_name` in time linear in both."""
    if len(recipients) == 1:
        return [recipient_name(to_names, recipients[0], sole=True)]
    directory = _directory(to_names)
    return [_beside(directory, recipient) for recipient in recipients]


def _directory(to_names: ToNames) -> dict[str, str]:
    """Names by address, once with its local part as it is and once without case; the first one counts."""
    names: dict[str, str] = {}
    for address, name in to_names:
        if address and name:
            names.setdefault(_exact(address), name)
    for address, name in to_names:
        if address and name:
            names.setdefault(_folded(address), name)
    return names


def _beside(directory: Mapping[str, str], recipient: str) -> str:
    return directory.get(_exact(recipient)) or directory.get(_folded(recipient), "")


def _exact(address: str) -> str:
    local, at, domain = address.rpartition("@")
    return f"={local}{at}{domain.lower()}"


def _folded(address: str) -> str:
    return f"~{address.lower()}"
