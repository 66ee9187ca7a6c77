"""Variables in a message, and the templates of THREATS.md that harm nothing but themselves."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.template import LONGEST_OUTPUT, LONGEST_SOURCE, Rendered, TemplateError, render, replace, unknown

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


class ReplaceTests(SynchronousTestCase):
    """``{{name}}`` in the subject and the addresses."""

    def test_values(self) -> None:
        """Texts, numbers and booleans are put in, null is nothing, all else stays as it stands."""
        variables = {"t": "Zoë", "i": 7, "f": 1.5, "b": True, "n": None, "l": [1], "o": {"x": 1}}
        for text, result in {
            "{{t}} {{ t }} {{\tt}}": "Zoë Zoë Zoë",
            "{{i}} {{f}} {{b}}": "7 1.5 True",
            "[{{n}}]": "[]",
            "{{l}} {{o}} {{o.x}} {{unknown}}": "{{l}} {{o}} {{o.x}} {{unknown}}",
            "{{ t|upper }} {% if t %} {{7*7}} {{}} {t}": "{{ t|upper }} {% if t %} {{7*7}} {{}} {t}",
            "": "",
        }.items():
            self.assertEqual(replace(text, variables, 1000), result)

    def test_once(self) -> None:
        """A value that looks like a name is not replaced again."""
        self.assertEqual(replace("{{a}}", {"a": "{{b}}", "b": "x"}, 100), "{{b}}")

    def test_no_new_header(self) -> None:
        """A line end in a value becomes a space."""
        self.assertEqual(replace("Hi {{a}}", {"a": "x\r\nBcc: y\x00\u2028z"}, 100), "Hi x Bcc: y z")

    def test_bound(self) -> None:
        """A result past the bound is refused before it is made."""
        self.assertEqual(replace("{{a}}{{a}}", {"a": "x" * 50}, 100), "x" * 100)
        self.assertRaises(TemplateError, replace, "{{a}}{{a}}y", {"a": "x" * 50}, 100)
        self.assertRaises(TemplateError, replace, "{{a}}" * 100_000, {"a": "x" * 1_000_000}, 1000)

    def test_unknown(self) -> None:
        """The names that stay are told, each once."""
        self.assertEqual(unknown("{{a}} {{ b }} {{c}} {{c}} {{l}} {{d|x}}", {"a": 1, "b": None, "l": []}), ("c", "l"))

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="{} ab\n", max_size=60), st.dictionaries(st.sampled_from("ab"), JSON))
    def test_anything(self, text: str, variables: dict[str, Any]) -> None:
        """Any text with any variables is replaced or refused, and is never longer than the bound."""
        with contextlib.suppress(TemplateError):
            self.assertLessEqual(len(replace(text, variables, 80)), 80)


class RenderTests(SynchronousTestCase):
    """Jinja2 in the body."""

    def refused(self, source: str, *words: str, **variables: Any) -> None:
        error = self.assertRaises(TemplateError, render, source, variables)
        for word in words:
            self.assertIn(word, str(error))

    def test_language(self) -> None:
        """Loops, conditions, filters, sets and macros work, on plain JSON values."""
        source = (
            "{% macro li(x) %}<li>{{ x }}</li>{% endmacro %}{% set n = items|length %}"
            "{% if n > 1 %}{{ n }}{% endif %}{% for i in items %}{{ li(i.name|upper) }}{% endfor %}{{ none }}\n"
        )
        items = [{"name": "a"}, {"name": "b&"}]
        self.assertEqual(render(source, {"items": items}).text, "2<li>A</li><li>B&amp;</li>None\n")

    def test_escaped(self) -> None:
        """Values are escaped; ``safe`` is the template's own decision."""
        self.assertEqual(render("{{ a }} {{ a|safe }}", {"a": "<b>"}).text, "&lt;b&gt; <b>")

    def test_undefined(self) -> None:
        """An unknown variable is nothing; what hangs on it is a mistake with its line."""
        self.assertEqual(render("[{{ a }}]", {}).text, "[]")
        self.refused("x\n\n{{ a.b }}", "line 3", "'a' is undefined")

    def test_undefined_named(self) -> None:
        """What a template shows or walks through and does not find is named once, what it asks for is not."""
        source = "{{ a }}{{ a }}{{ o.x }}{% for b in list %}{% endfor %}{{ up|upper }}{{ n|length }}"
        self.assertEqual(render(source, {"o": {}}).undefined, ("a", "x", "list", "up", "n"))
        asked = "{% if a %}{% endif %}{{ b|default('x') }}{{ c is defined }}{% if 0 %}{{ d }}{% endif %}{{ given }}"
        self.assertEqual(render(asked, {"given": ""}), Rendered("xFalse"))

    def test_undefined_bounded(self) -> None:
        """However many are missing, the list of them stays short."""
        source = "".join(f"{{{{ a{number}{'x' * 500} }}}}" for number in range(500))
        undefined = render(source, {}).undefined
        self.assertEqual((len(undefined), max(map(len, undefined))), (50, 100))

    def test_source_alone(self) -> None:
        """Without variables a mistake is found and nothing is rendered, so nothing can be missing."""
        self.assertEqual(render("{{ a.b.c }}", None), Rendered("{{ a.b.c }}"))
        error = self.assertRaises(TemplateError, render, "a\n{{ a b }}", None)
        self.assertEqual((error.line, error.words), (2, "expected token 'end of print statement', got 'b'"))

    def test_mistakes(self) -> None:
        """A mistake comes with its line and Jinja2's words."""
        self.refused("a\n{% if %}", "line 2", "Expected an expression")
        self.refused("a\n{{ 1 + }}", "line 2")
        self.refused("{% nope %}", "line 1", "unknown tag 'nope'")
        self.refused("a\n{{ a|nope }}", "line 2", "No filter named 'nope'")
        self.refused("a\nb\n{{ 1 / 0 }}", "line 3", "division by zero")
        self.refused("a\n{{ a + 1 }}", "line 2", a="x")

    def test_no_globals(self) -> None:
        """The functions that Jinja2 gives every template are not there."""
        for name in ("range", "dict", "lipsum", "cycler", "joiner", "namespace"):
            self.refused(f"{{{{ {name}() }}}}", f"'{name}' is undefined")

    def test_no_loader(self) -> None:
        """No template reaches another, or a file."""
        for tag in ("include", "import", "extends"):
            tail = " as x" if tag == "import" else ""
            self.refused(f"{{% {tag} '/etc/passwd'{tail} %}}", "line 1")

    def test_attribute_walks(self) -> None:
        """The ways out of a sandbox lead nowhere: refused, or nothing."""
        for source in (
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ a.__class__ }}",
            "{{ a['__class__']['__init__']['__globals__'] }}",
            "{{ a|attr('__class__') }}",
            "{{ self.__init__.__globals__ }}",
            "{{ self._TemplateReference__context.environment }}",
            "{{ ''.format.__globals__ }}",
            "{{ '{0.__class__}'.format(a) }}",
            "{{ '{0.__class__.__init__.__globals__}'.format_map({}) }}",
            "{{ (lambda: 1)() }}",
            "{% set x = a.__setitem__('k', 1) %}",
            "{{ l.append(1) }}",
            "{{ a.update({'x': 1}) }}",
            "{{ loop.__class__ }}{% for x in l %}{{ loop.__class__.__init__.__globals__ }}{% endfor %}",
            "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{{ m.__globals__ }}",
        ):
            try:
                said = render(source, {"a": {}, "l": [1]}).text
            except TemplateError:
                continue
            self.assertEqual(said.strip("0"), "", source)

    def test_source_and_output_capped(self) -> None:
        """A template past its bound is not read, a result past its bound is not finished."""
        self.refused("x" * (LONGEST_SOURCE + 1), str(LONGEST_SOURCE))
        self.refused("{% for a in l %}{{ b }}{% endfor %}", str(LONGEST_OUTPUT), l=[0] * 90, b="x" * 100_000)

    def test_nesting(self) -> None:
        """A template nested past what the compiler takes is refused."""
        self.refused("{{ " + "(" * 3000 + ")" * 3000 + " }}")
        self.refused("{% if a %}" * 3000)

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.sampled_from(["{{", "}}", "{%", "%}", "a", "b", "|", "if", "for", "in", "(", ")", " ", "'", "\n"])),
        st.dictionaries(st.sampled_from("ab"), JSON),
    )
    def test_anything(self, words: list[str], variables: dict[str, Any]) -> None:
        """Any template with any variables is rendered or refused."""
        try:
            self.assertIsInstance(render(" ".join(words), variables).text, str)
        except TemplateError as error:
            self.assertTrue(str(error))
