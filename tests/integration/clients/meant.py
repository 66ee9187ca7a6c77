"""What every client is told to send, and what the platform is to get.

The message is chosen to hurt: names with an umlaut and a comma, variables with long tokens and double blanks,
a blind recipient, an inline image, lines that begin with a dot, and a line of 40,000 characters.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

FROM = ("Müller & Söhne, Köln", "shop@example.com")
TO = (("Doe, Jürgen", "juergen@example.org"), ("Ann Other", "ann@example.net"))
#: A recipient that stands in no header.
BCC = "audit@example.com"
RECIPIENTS = (TO[0][1], TO[1][1], BCC)
REPLY_TO = ("Hilfe Büro", "hilfe@example.com")
SUBJECT = "Ihre Bestellung {{ order.id }}: Größe geändert – 100 % Wolle, jetzt für 39 €"
TAG = "order-changed"
ROUTE = "capture"

#: 40,000 characters without a line end; each cell has its number, so that a difference tells where it is.
LONG_LINE = "".join(f"<td>{number:05d} ä</td>" for number in range(2500))
HTML = (
    "<!DOCTYPE html>\n"
    "<html><body>\n"
    "<p>Grüße, {{ customer.name }}! 1 < 2 = yes</p>\n"
    ".a line that begins with a dot\n"
    "..and one with two\n"
    '<img src="cid:logo@example.com" alt="Logo">\n'
    f"{LONG_LINE}\n"
    "</body></html>\n"
)
TEXT = "Grüße!\n\nA text alternative, which nobody is to see.\n"

VARIABLES: dict[str, Any] = {
    "customer": {"name": "Jürgen Groß", "company": "Müller & Söhne, Köln", "vip": True, "score": -1.5e3},
    "order": {"id": 4711, "lines": [{"sku": f"WOLLE-{n:04d}", "title": f"Größe {n}", "n": n} for n in range(14)]},
    # A token without a blank in it, longer than any line a mailer likes.
    "token": base64.b64encode(bytes(range(250))).decode(),
    "link": "https://shop.example.com/o/4711?" + "&".join(f"p{n}=%20{n:x}" for n in range(24)) + "#=?x?=",
    # Where mailers fold, they fold at blanks, and lose some.
    "blanks": "one two  three   four    five",
    "edges": " both ",
    "note": "Wir haben die Größe geändert. " * 6 + "Ça va? ¿Qué tal? Zażółć gęślą jaźń; Příliš žluťoučký kůň.",
    "quotes": 'He said "yes", \\ and </p>\n\tleft',
    "scripts": "Ελληνικά, Русский, 中文字符串没有空格所以不能在空格处折行而且它相当长, עברית, 🎉🎊",
    "nothing": None,
    "empty": {"list": [], "object": {}, "string": ""},
}

#: One transparent pixel.
IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def job(directory: Path, *, host: str, port: int, key: str, ca_file: str, header_key: bool) -> Path:
    """Write the file that every client program reads, and the image beside it.

    :param ca_file: PEM file with the certificate that the client is to trust.
    :param header_key: the key goes into ``X-Auth-APIKey``, there is no AUTH, and the variables are escaped to
        ASCII as most JSON encoders do by default; else there is AUTH, and the variables are raw UTF-8.
    :return: the file, JSON.
    """
    image = directory / "logo.png"
    image.write_bytes(IMAGE)
    compact = json.dumps(VARIABLES, ensure_ascii=header_key, separators=(",", ":"))
    headers = {"X-Transactional-Tag": TAG, "X-Transactional-Route": ROUTE, "X-Transactional-Variables": compact}
    if header_key:
        headers["X-Auth-APIKey"] = key
    path = directory / "job.json"
    fields = {
        "host": host, "port": port, "user": "any", "key": key, "auth": not header_key, "ca_file": ca_file,
        "from": FROM, "to": TO, "bcc": BCC, "reply_to": REPLY_TO, "subject": SUBJECT,
        "headers": headers, "html": HTML, "text": TEXT, "image": str(image), "cid": "logo@example.com",
    }  # fmt: skip
    path.write_text(json.dumps(fields), "utf-8")
    return path


def expected(recipient: str, body: str) -> dict[str, Any]:
    """The fields of the POST for *recipient*, where the client left the HTML as *body*."""
    return {
        "fromname": FROM[0],
        "fromemail": FROM[1],
        "to": recipient,
        "toname": {address: name for name, address in TO}.get(recipient, ""),
        "subject": SUBJECT,
        "replyto": f"{REPLY_TO[0]} <{REPLY_TO[1]}>",
        "returnpath": FROM[1],
        "body": body,
        "tag": TAG,
        "route": ROUTE,
        "template": "",
        "variables": VARIABLES,
    }
