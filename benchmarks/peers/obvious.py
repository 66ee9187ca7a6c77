"""How most people would parse it, for both peers: the standard library's ``email`` with its modern policy."""

from __future__ import annotations

import email
import json
from email.policy import default
from typing import Any


class Refused(Exception):
    """The message cannot be sent; *code* and *text* are the reply."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def submissions(
    content: bytes, sender: str, recipients: list[str], password: str | None = None
) -> tuple[str, list[dict[str, Any]]]:
    """The API key, and what is to be posted for each recipient.

    :raises Refused: something is missing.
    """
    message: Any = email.message_from_bytes(content, policy=default)
    key = message["X-Auth-APIKey"] or password
    if not key:
        raise Refused(530, "Authentication required")
    if not message["From"] or not message["Subject"]:
        raise Refused(554, "From and Subject are needed")
    part = message.get_body(preferencelist=("html", "plain"))
    if part is None:
        raise Refused(554, "There is no body")
    author, body = message["From"].addresses[0], part.get_content()
    variables = message["X-Transactional-Variables"]
    names = {each.addr_spec: each.display_name for each in message["To"].addresses} if message["To"] else {}
    if len(names) == 1 and len(recipients) == 1:
        names = {recipients[0]: next(iter(names.values()))}
    return str(key), [
        {
            "fromname": author.display_name,
            "fromemail": author.addr_spec,
            "to": recipient,
            "toname": names.get(recipient, ""),
            "subject": str(message["Subject"]),
            "replyto": str(message["Reply-To"] or ""),
            "returnpath": sender,
            "body": body,
            "tag": str(message["X-Transactional-Tag"] or ""),
            "route": str(message["X-Transactional-Route"] or ""),
            "template": str(message["X-Transactional-Template"] or ""),
            "variables": json.loads(variables) if variables else None,
        }
        for recipient in recipients
    ]
