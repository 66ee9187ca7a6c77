"""``POST /api/relay/reports``: what clients of SMTP were told; for the relay alone (:mod:`relay.client.reports`)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, ClassVar

import sqlalchemy as sa
from attrs import frozen
from twisted.web.server import Request

from relay import wire
from relay.embedded import refusals, rules, transactions
from relay.embedded.api.core import Platform, PlatformEndpoint, body, header
from relay.embedded.resource import Answer, nothing
from relay.embedded.schema import api_keys
from relay.embedded.store import Fields
from relay.embedded.transactions import Transaction


@frozen
class _Told:
    """One report.

    :ivar digest: of the API key, in hexadecimal digits.
    :ivar refused: an answer, and the fields of the message that got it.
    """

    digest: str
    transaction: Transaction
    refused: list[tuple[str, Fields]]


class Reports(PlatformEndpoint):
    """Keeps what is told of each transaction, and puts those who did not get their message into the log.

    :param token: what the relay shows.
    """

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    def __init__(self, platform: Platform, token: str) -> None:
        super().__init__(platform)
        self._token = token

    async def answer(self, request: Request) -> Answer:
        if not hmac.compare_digest(header(request, "X-Relay-Token").encode(), self._token.encode()):
            raise nothing()
        now = self._platform.now()
        try:
            reports = wire.decode_object(body(request))["reports"]
            told = [_Told(each["account"], _transaction(each, now), _refusals(each)) for each in reports]
        except (wire.WireError, LookupError, TypeError, ValueError, AttributeError):
            raise rules.wrong("the body holds no reports") from None
        await self._platform.write(lambda connection: self._keep(connection, told))
        return Answer(wire.dump({"result": "ok"}))

    def _keep(self, connection: sa.Connection, told: list[_Told]) -> None:
        digests = {each.digest for each in told}
        query = sa.select(api_keys.c.sha256, api_keys.c.account).where(api_keys.c.sha256.in_(digests))
        accounts = dict(connection.execute(query).tuples().all())
        for each in told:
            account = accounts.get(each.digest)
            if account is None:
                continue  # The key was reset meanwhile, or is a stranger's.
            transactions.put(connection, account, each.transaction)
            for answer, fields in each.refused:
                new = refusals.refused(account, self._platform.new_id(), each.transaction.created, fields, answer)
                refusals.put(connection, new)


def _transaction(report: Mapping[str, Any], now: float) -> Transaction:
    return Transaction(
        request_id=str(report["id"])[:64],
        created=now,
        peer=rules.storable(str(report["peer"])),
        reply=rules.storable(str(report["reply"])),
        milliseconds=float(report["milliseconds"]),
        images=int(report["images"]),
        attachments=int(report["attachments"]),
        cids=int(report["cids"]),
        headers=tuple(rules.storable(str(each)) for each in report["headers"]),
    )


def _refusals(report: Mapping[str, Any]) -> list[tuple[str, Fields]]:
    """The answer for each recipient who did not get the message, and what is known of it."""
    sender = str(report["sender"])
    common = {
        "request_id": str(report["id"]),
        "fromname": "",
        "fromemail": str(report["from"]) or sender,
        "toname": "",
        "subject": str(report["subject"]),
        "replyto": "",
        "returnpath": sender,
        "tag": str(report["tag"]),
        "route": str(report["route"]),
        "template": "",
    }
    return [(str(answer), Fields(recipient=str(to), **common)) for to, answer in report["refused"].items()]
