"""The text that is made of HTML."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.routes.plain import of_html


class PlainTests(SynchronousTestCase):
    """What a reader without HTML sees."""

    def test_text(self) -> None:
        """Each piece of HTML becomes what it means."""
        for html, text in (
            ("", ""),
            ("Hello", "Hello\n"),
            ("a  b\n c", "a b c\n"),
            ("<p>one</p><p>two</p>", "one\n\ntwo\n"),
            ("<div>one</div>\n<div>two</div>", "one\ntwo\n"),
            ("one<br>two<br><br>three", "one\ntwo\n\nthree\n"),
            ("a <b>b</b>c", "a bc\n"),
            ("&lt;x&gt; &amp; &euro;&nbsp;1", "<x> & €\xa01\n"),
            ("<ul><li>one<li>two</ul>after", "- one\n- two\n\nafter\n"),
            ("<ul><li><p>one</p></li></ul>", "- one\n"),
            ("<tr><td>A</td><td>B</td></tr><tr><td>C</td></tr>", "A B\nC\n"),
            ("a<hr>b", "a\n\n---\n\nb\n"),
            ("<pre>a\n  b</pre>", "a\n  b\n"),
            ("<img alt='A cat' src=x>", "A cat\n"),
            ("<style>a{}</style><script>b()</script>c<!-- d > --><title>e</title>", "c\n"),
            ("1 < 2 > 0", "1 < 2 > 0\n"),
            ("<a title='>'>x</a>", "x\n"),
            ("<!DOCTYPE html><?x?></>x", "x\n"),
            ("x<script>never closed", "x\n"),
            ("x<!-- never closed", "x\n"),
            ("x<a href='never closed", "x\n"),
        ):
            self.assertEqual(of_html(html), text, html)

    def test_links(self) -> None:
        """A link leads somewhere in text too, unless its label says where or it leads nowhere that a reader goes."""
        for html, text in (
            ("<a href='https://x.example/?a=1&amp;b=2'>here</a>.", "here (https://x.example/?a=1&b=2).\n"),
            ("<a href=https://x.example>https://x.example</a>", "https://x.example\n"),
            ('<a class="b" href="mailto:a@b.example">write</a>', "write (a@b.example)\n"),
            ("<a href='javascript:alert(1)'>x</a><a href='#top'>y</a><a>z</a>", "xyz\n"),
            ("<a href='https://x.example/'><img src=x></a>", "(https://x.example/)\n"),
        ):
            self.assertEqual(of_html(html), text, html)

    def test_huge_references(self) -> None:
        """A character reference with more digits than Python reads is a character that there is not."""
        self.assertEqual(of_html("&#" + "9" * 5000 + ";"), "\ufffd\n")

    @given(st.text() | st.text(alphabet="<>a/'\"=!-& ;#x"))
    def test_anything(self, html: str) -> None:
        """Whatever the HTML, there is a text."""
        self.assertTrue(of_html(html).endswith("\n") or not of_html(html))
