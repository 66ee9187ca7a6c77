"""Plain text made into HTML."""

from __future__ import annotations

import jinja2
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.message import text


def inner(html: str) -> str:
    """What stands between the body tags."""
    return html.partition("<body>")[2].rpartition("\r\n</body>")[0]


class PlainTests(SynchronousTestCase):
    """:func:`relay.message.text.to_html` of text that is no template."""

    def check(self, plain: str, html: str) -> None:
        self.assertEqual(html, inner(text.to_html(plain)))

    def test_escaped(self) -> None:
        """Nothing in the text is markup."""
        self.check("<b>&\"'", "&lt;b&gt;&amp;&quot;&#x27;")
        self.check("{{ a < b }}", "{{ a &lt; b }}")

    def test_lines(self) -> None:
        """Every line end is a break, also where it is LF; columns keep their spaces."""
        self.check("a\r\nb\n\nc", "a<br>\r\nb<br>\r\n<br>\r\nc")
        self.check("a  b   c", "a&nbsp; b&nbsp;&nbsp; c")

    def test_links(self) -> None:
        """http, https and mailto addresses are links, without the punctuation around them."""
        self.check("https://x.example/?a=1&b=2.", '<a href="https://x.example/?a=1&amp;b=2">'
                   "https://x.example/?a=1&amp;b=2</a>.")  # fmt: skip
        self.check("(see http://x.example/a)", '(see <a href="http://x.example/a">http://x.example/a</a>)')
        self.check("mailto:a@x", '<a href="mailto:a@x">mailto:a@x</a>')
        self.check("<https://x.example>", '&lt;<a href="https://x.example">https://x.example</a>&gt;')
        self.check("https://x/a_(b)", '<a href="https://x/a_(b)">https://x/a_(b)</a>')
        self.check("javascript:alert(1) ftp://x", "javascript:alert(1) ftp://x")

    def test_many(self) -> None:
        """Past a number of links the others are text."""
        html = text.to_html("http://x " * (text.MOST_PIECES + 7))
        self.assertEqual(text.MOST_PIECES, html.count("<a "))
        self.assertTrue(html.rpartition("</a>")[2].startswith(" http://x http://x "))


class TemplateTests(SynchronousTestCase):
    """The same of a template."""

    def check(self, plain: str, html: str) -> None:
        self.assertEqual(html, inner(text.to_html(plain, templated=True)))

    def test_tags_intact(self) -> None:
        """Jinja2 tags stay as they are, the data between them is escaped."""
        self.check("a < {{ x if a < 'b'  else \"c\" }} & d", "a &lt; {{ x if a < 'b'  else \"c\" }} &amp; d")
        self.check("{% if a > b %}<{# & #}{% endif %}", "{% if a > b %}&lt;{# & #}{% endif %}")

    def test_unclosed(self) -> None:
        """What is never closed is data."""
        self.check("{{ a < b", "{{ a &lt; b")
        self.check("{{ a }} {% < {# <", "{{ a }} {% &lt; {# &lt;")

    def test_links(self) -> None:
        """A link may hold expressions."""
        self.check("https://x/{{ a }}?b=1&c={{ c|e }}.", '<a href="https://x/{{ a }}?b=1&amp;c={{ c|e }}">'
                   "https://x/{{ a }}?b=1&amp;c={{ c|e }}</a>.")  # fmt: skip
        self.check("https://x/{% if a %}b{% endif %}", '<a href="https://x/">https://x/</a>{% if a %}b{% endif %}')
        self.check("{{ 'https://x' }}", "{{ 'https://x' }}")

    @settings(max_examples=150)
    @given(st.lists(st.sampled_from(["{{ x }}", "{% if x %}", "{% endif %}", "<", "&", "\n", "  ", "https://a/", " ",
                                     "b", "{# c #}", ".", '"', "{{ x|upper }}"])).map("".join))  # fmt: skip
    def test_renders_as_before(self, source: str) -> None:
        """A text that is a template is one as HTML too, and one that is none is none."""
        environment = jinja2.Environment()
        try:
            environment.parse(source)
        except jinja2.TemplateSyntaxError:
            self.assertRaises(jinja2.TemplateSyntaxError, environment.parse, text.to_html(source, templated=True))
        else:
            environment.parse(text.to_html(source, templated=True))

    def test_many_unclosed(self) -> None:
        """A megabyte of tags that never close is read in one go."""
        for piece in ("{{", "{%", "{#", "{{ %} ", "https://{{", "https://x ", "  ", "http://{{a"):
            self.assertIsInstance(text.to_html(piece * (1_000_000 // len(piece)), templated=True), str)
