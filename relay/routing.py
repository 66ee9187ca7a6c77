"""Which route and tag a message gets (MESSAGE.md, "Tag" and "Route")."""

from __future__ import annotations

from relay.errors import PermanentFailure, Reason
from relay.values import Account, Message

#: The tag of a message that names none.
UNTAGGED = "untagged"


def tag(given: str) -> str:
    """The tag on the wire: stripped and lower-cased; blank is ``untagged``."""
    return given.strip().lower() or UNTAGGED


def route(message: Message, account: Account) -> str:
    """The route on the wire: the header's, else the account's default, else its only one.

    ``""`` leaves the choice to the platform, where the relay does not know the account's routes.

    :raises PermanentFailure: several routes, none given; the text names them.
    """
    given = message.route.strip()
    if given or account.routes is None:
        return given
    if account.default_route:
        return account.default_route
    if len(account.routes) > 1:
        names = ", ".join(each.name or each.id for each in account.routes)
        raise PermanentFailure(
            Reason.ROUTE, f"This account has several routes, name one in X-Transactional-Route: {names}"
        )
    return account.routes[0].id if account.routes else ""
