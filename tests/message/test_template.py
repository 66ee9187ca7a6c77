"""The syntax check of bodies that come with variables."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relay.errors import PermanentFailure, Reason
from relay.message import template, text
from relay.values import JSONObject, Message

NO_VALUES: JSONObject = {}


def message(body: str, subject: str = "Hello", variables: JSONObject | None = NO_VALUES) -> Message:
    """A message with a body and, unless told, variables."""
    return Message("Shop", "shop@x.example", subject, body, variables=variables)


class CheckTests(SynchronousTestCase):
    """:func:`relay.message.template.check`."""

    def refused(self, body: str, subject: str = "Hello") -> str:
        failure = self.assertRaises(PermanentFailure, template.check, message(body, subject))
        self.assertEqual(Reason.BAD_TEMPLATE, failure.reason)
        return failure.text

    def test_right(self) -> None:
        """A template, or text without tags, passes."""
        for body in ("<p>Hi</p>", "{{ name|title }}", "{% for a in b %}{{ a.c[0] }}{% endfor %}{# x #}", "{ } %} }}"):
            template.check(message(body, subject="Hi {{name}}, {# 1"))

    def test_wrong(self) -> None:
        """A mistake is refused with its line and Jinja2's words, every time."""
        for _ in range(2):
            self.assertEqual(
                "line 2: unexpected end of template, expected 'end of print statement'.", self.refused("Hi\n{{ name")
            )
        self.assertIn("line 3: ", self.refused("\n\n{% for a b %}"))
        self.assertIn("line 2: ", self.refused(text.to_html("Hi\r\n{% if %}", templated=True)))
        self.assertIn("Subject, line 1: ", self.refused("Hi", subject="Hi {{ name"))

    def test_without_variables(self) -> None:
        """Without variables nothing is a template."""
        template.check(message("{{", subject="{{", variables=None))

    def test_nested_too_deeply(self) -> None:
        """Whatever Jinja2's parser would recurse into is refused before or when it does."""
        for body in (
            "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
            "{{ " + "[" * 5000 + " }}",
            '{{ "}}" + ' + "(" * 5000 + " }}",
            "{{ " + "not " * 5000 + "1 }}",
            "{{ " + "-" * 5000 + "1 }}",
            "{{ " + "a if b else " * 5000 + "c }}",
            "{% if a %}" * 2000 + "{% endif %}" * 2000,
        ):
            self.assertIn("line 1: ", self.refused(body))

    def test_bounds(self) -> None:
        """Size, tokens and numbers are bounded; the text says to what."""
        self.assertIn(str(template.LARGEST_SOURCE), self.refused("{{ a }}" + "x" * template.LARGEST_SOURCE))
        self.assertIn(str(template.MOST_TOKENS), self.refused("{{ a }}" * template.MOST_TOKENS))
        self.assertIn(str(template.LONGEST_NUMBER), self.refused("{{ " + "1" * 20_000 + " }}"))

    def test_large_and_right(self) -> None:
        """A large body with few tags passes."""
        template.check(message("<p>Hello</p>\r\n" * 100_000 + "{{ name }}"))
