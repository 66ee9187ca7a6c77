"""The messages and the workloads: the same octets in every run, on every machine."""

from __future__ import annotations

import quopri

from attrs import frozen

#: The only API key that the platform of the measurement takes.
KEY = "test-key"
SENDER = "bounce@shop.example"
RECIPIENT = "rcpt@customer.example"

_AUTHORIZATION = f"X-Auth-APIKey: {KEY}\n"
_HEADERS = f"""From: Example Shop <orders@shop.example>
To: Jane Doe <jane.doe@customer.example>
Subject: Your order 10023 has shipped
Reply-To: Support <support@shop.example>
{_AUTHORIZATION}X-Transactional-Tag: welcome
MIME-Version: 1.0
"""
_TOP = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Your order has shipped</title>
<style>body{font-family:Arial,sans-serif;color:#333}td{padding:6px 10px}.h{background:#f4f4f4}</style>
</head><body>
<h1>Hello Jane,</h1>
<p>Good news: order <b>10023</b> left our warehouse today. The table below lists what is on its way.</p>
<table border="0" cellspacing="0" width="600">
"""
_LINE = """<tr class="h"><td>%05d</td><td><a href="https://shop.example/item/%05d?src=mail">Item number %05d</a></td>
<td align="right">1 pc</td><td align="right">EUR 12.50</td></tr>
"""
_BOTTOM = """</table>
<p>Track your parcel: <a href="https://shop.example/track/10023">https://shop.example/track/10023</a></p>
.dots at the start of a line must survive
<p style="font-size:11px">You get this mail because you placed an order at shop.example.</p>
</body></html>
"""
_TEXT = (
    "Hello Jane,\n\nGood news: order 10023 left our warehouse today.\n"
    + "".join(f"  {number:05}  Item number {number:05}          1 pc   EUR 12.50\n" for number in range(32))
    + "\nTrack your parcel: https://shop.example/track/10023\n"
)
_BOUNDARY = "=_b1_0123456789abcdef"


@frozen
class Letter:
    """A message, and what the platform is to get of it.

    :ivar content: with LF line ends; the clients add CR and the dots of RFC 5321, section 4.5.2.
    """

    content: bytes
    subject: str
    body: str

    @property
    def unsigned(self) -> bytes:
        """Without the API key: for clients that sign in."""
        return self.content.replace(_AUTHORIZATION.encode(), b"")

    def differences(self, posted: dict[str, object]) -> str:
        """What the platform got otherwise, apart from line ends; empty if nothing."""
        wanted = {
            "fromname": "Example Shop",
            "fromemail": "orders@shop.example",
            "to": RECIPIENT,
            "subject": self.subject,
            "returnpath": SENDER,
            "tag": "welcome",
        }
        wrong = [name for name, value in wanted.items() if posted.get(name) != value]
        if str(posted.get("body")).replace("\r\n", "\n").rstrip("\n") != self.body.rstrip("\n"):
            wrong.append("body")
        return ", ".join(wrong)


@frozen
class Workload:
    """What a client does.

    :ivar keep: many messages in a connection, else one.
    :ivar target: of the relay, as a ratio to the yardstick; None without one.
    :ivar yardstick: the workload under which the yardstick is run to be compared with.
    """

    name: str
    words: str
    letter: str
    sessions: int
    keep: bool
    target: float | None = None
    yardstick: str = "W2"


WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", "4 kB HTML, one message a connection, 50 sessions", "html4k", 50, False, 2.8, "W1"),
        Workload("W2", "4 kB HTML, many a connection, 50 sessions", "html4k", 50, True, 4.2),
        Workload("W3", "1 MB HTML, many a connection, 10 sessions", "html1m", 10, True, 1.4, "W3"),
        Workload("W4", "text and HTML alternative, 6 kB, many a connection, 50 sessions", "alt6k", 50, True, 4.8),
        Workload("W5", "4 kB quoted-printable, not ASCII, many a connection, 50 sessions", "qp4k", 50, True),
    )
}


def signed_in(workload: str, kind: str) -> str:
    """How a workload by our own client is called.

    :param kind: ``AUTH``, ``STARTTLS`` or nothing of it.
    """
    return f"{workload} {kind or 'plain'}"


def letters() -> dict[str, Letter]:
    """All messages by name."""
    subject, small, large = "Your order 10023 has shipped", html(4096), html(1 << 20)
    german = small.replace("Hello Jane", "Grüße an Jürgen").replace("Item number", "Größe")
    encoded = _HEADERS.replace(f"Subject: {subject}", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_aus_M=C3=BCnchen?=")
    return {
        "html4k": Letter((_HEADERS + _part("html", "8bit") + small).encode(), subject, small),
        "html1m": Letter((_HEADERS + _part("html", "8bit") + large).encode(), subject, large),
        "alt6k": Letter(_alternative(small).encode(), subject, small),
        "qp4k": Letter(
            (encoded + _part("html", "quoted-printable")).encode() + quopri.encodestring(german.encode()),
            "Grüße aus München",
            german,
        ),
    }


def html(size: int) -> str:
    """A page of at least *size* characters."""
    lines: list[str] = []
    length = len(_TOP) + len(_BOTTOM)
    while length < size:
        lines.append(_LINE % ((len(lines) % 100_000,) * 3))
        length += len(lines[-1])
    return _TOP + "".join(lines) + _BOTTOM


def _part(kind: str, encoding: str) -> str:
    return f"Content-Type: text/{kind}; charset=utf-8\nContent-Transfer-Encoding: {encoding}\n\n"


def _alternative(page: str) -> str:
    parts = "".join(
        f"--{_BOUNDARY}\n{_part(kind, '8bit')}{text}\n" for kind, text in (("plain", _TEXT), ("html", page))
    )
    head = f'{_HEADERS}Content-Type: multipart/alternative; boundary="{_BOUNDARY}"\n\n'
    return f"{head}{parts}--{_BOUNDARY}--\n"
