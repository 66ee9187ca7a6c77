"""Routes as values: what a form, a row and a page make of them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.routes import values
from relay.embedded.routes.values import Capture, Maildir, PostalRoute, Smarthost, WrongRoute

#: What would be a path, a URL or a header somewhere.
NASTY = ("../x", "/etc/passwd", "a/b", "..", ".", ".hidden", "a\\b", "a\0b", "http://x", "x:25", "a b", "a\r\nb", "ä/é")


class ParseTests(SynchronousTestCase):
    """A form becomes a route."""

    def problems(self, kind: str, **form: str) -> dict[str, str]:
        """What is wrong with a form."""
        return self.assertRaises(WrongRoute, values.parse, "r", kind, form).problems

    def test_smarthost(self) -> None:
        """A host alone is enough: STARTTLS on 587, five connections, as many messages as come."""
        route = values.parse("out", "smtp", {"host": "mx.example.com"})
        self.assertEqual(route, PostalRoute("out", "out", Smarthost("mx.example.com")))
        self.assertEqual((route.kind, route.settings.port, route.settings.tls), ("smtp", 587, "starttls"))

    def test_port_of_tls(self) -> None:
        """TLS from the start has the port 465, unless another is given."""
        self.assertEqual(values.parse("o", "smtp", {"host": "h", "tls": "tls"}).settings.port, 465)
        self.assertEqual(values.parse("o", "smtp", {"host": "h", "tls": "tls", "port": "4650"}).settings.port, 4650)

    def test_every_problem(self) -> None:
        """Every mistake is named at its field, at once."""
        form = {"host": "", "port": "0", "tls": "maybe", "concurrency": "x", "rate": "-1", "authorities": "PEM"}
        self.assertEqual(set(self.problems("smtp", **form)), set(form))

    def test_numbers(self) -> None:
        """A number is plain digits within its bounds."""
        for given_ in ("65536", "٣", "1e3", "+5", "9" * 30):
            self.assertEqual(list(self.problems("smtp", host="h", port=given_)), ["port"])

    def test_names_choose_nothing(self) -> None:
        """A host, a folder or an id that looks like a path or a URL is refused."""
        for each in NASTY:
            self.assertIn("host", self.problems("smtp", host=each))
            self.assertIn("folder", self.problems("maildir", folder=each))
            self.assertRaises(WrongRoute, values.parse_id, each)

    def test_addresses(self) -> None:
        """A smarthost may be an IP address."""
        for each in ("192.0.2.1", "2001:db8::1"):
            self.assertEqual(values.parse("o", "smtp", {"host": each}).settings.host, each)

    def test_password_stays(self) -> None:
        """An empty password field leaves the password as it was, and without a user there is none."""
        form = {"host": "h", "user": "me", "password": ""}
        self.assertEqual(values.parse("o", "smtp", form, password="old").settings.password, "old")
        self.assertEqual(values.parse("o", "smtp", {**form, "password": "n"}, password="old").settings.password, "n")
        self.assertEqual(values.parse("o", "smtp", {**form, "user": ""}, password="old").settings.password, "")

    def test_unknown_kind(self) -> None:
        """A kind that there is not is a mistake in the form."""
        self.assertEqual(list(self.problems("http")), ["kind"])

    def test_maildir(self) -> None:
        """A maildir has the name of its route unless it is given another."""
        self.assertEqual(values.parse("archive", "maildir", {}).settings, Maildir("archive"))

    @given(st.text(), st.dictionaries(st.sampled_from(["name", "host", "port", "folder", "authorities"]), st.text()))
    def test_anything(self, kind: str, form: dict[str, str]) -> None:
        """Whatever is posted makes a route or a list of problems."""
        for each in (kind, "smtp", "maildir", "capture"):
            try:
                values.parse("r", each, form)
            except WrongRoute as wrong:
                self.assertTrue(wrong.problems)


class StoredTests(SynchronousTestCase):
    """Settings as JSON."""

    def test_round_trip(self) -> None:
        """What is stored comes back, the password from elsewhere."""
        for kind, each in (("capture", Capture()), ("maildir", Maildir("x")), ("smtp", Smarthost("h", password="pw"))):
            self.assertEqual(values.load(kind, values.dump(each), "pw"), each)

    def test_no_password(self) -> None:
        """A password is in no JSON, no page and no repr."""
        route = PostalRoute("o", "o", Smarthost("h", user="me", password="canary-secret"))
        self.assertNotIn("canary", values.dump(route.settings) + repr(route) + json.dumps(values.public(route)))

    def test_newer(self) -> None:
        """A setting that a newer version wrote is passed over."""
        self.assertEqual(values.load("maildir", '{"folder": "x", "colour": "red"}'), Maildir("x"))

    def test_damaged(self) -> None:
        """Settings that are none are refused with a clear error."""
        for kind, text in (("smtp", "{}"), ("smtp", "["), ("smtp", "[]"), ("fax", "{}")):
            self.assertRaises(WrongRoute, values.load, kind, text)
