"""The templates of THREATS.md ("Jinja2") that burn time and memory, in the real process that renders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from relay.embedded.render import Limits, Renderer
from relay.embedded.template import Rendered, TemplateError

#: Long enough for a start on a busy machine; a burning template meets the CPU limit first.
LIMITS = Limits(processes=1, memory=268_435_456, cpu=1, wall=60.0)


class RenderLimitsTests(TestCase):
    """One process, small limits."""

    def setUp(self) -> None:
        self.renderer = Renderer(reactor, LIMITS)
        self.addCleanup(self.renderer.stop)

    def check(self, source: str, words: str = "", **variables: Any) -> Deferred[None]:
        """*source* is refused with *words*, and the next body is rendered as if nothing had been."""
        return Deferred.fromCoroutine(self._check(source, words, variables))

    async def _check(self, source: str, words: str, variables: dict[str, Any]) -> None:
        try:
            said = (await self.renderer.render(source, variables)).text
        except TemplateError as error:
            self.assertIn(words, str(error))
        else:
            self.fail(f"rendered to {len(said)} characters: {said[:100]}")
        after = await self.renderer.render("<p>{{ a }}{{ b }}</p>", {"a": "Zoë & \U0001f600"})
        self.assertEqual(after, Rendered("<p>Zoë &amp; \U0001f600</p>", ("b",)))

    # Time

    def test_nested_loops(self) -> Deferred[None]:
        """Loops within loops end at the CPU limit."""
        loops = "{% for a in l %}" * 6
        return self.check(loops + "{% endfor %}" * 6, "time", l=[0] * 1000)

    def test_nested_ranges(self) -> Deferred[None]:
        """``range`` is not there to make them."""
        return self.check("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "'range'")

    def test_power(self) -> Deferred[None]:
        """A number with billions of digits ends at a limit."""
        return self.check("{{ 9 ** (9 ** 9) }}", "too much")

    def test_endless_recursion(self) -> Deferred[None]:
        """A macro that calls itself is nested too deeply."""
        return self.check("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deep")

    def test_exponential_recursion(self) -> Deferred[None]:
        """One that calls itself twice ends at the CPU limit."""
        source = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}"
        return self.check(source, "time")

    def test_wall_clock(self) -> Deferred[None]:
        """Where the CPU limit is far, the clock ends it."""
        self.renderer = Renderer(reactor, Limits(processes=1, cpu=600, wall=1.5))
        self.addCleanup(self.renderer.stop)
        loops = "{% for a in l %}" * 6 + "{% endfor %}" * 6
        return self.assertFailure(self.renderer.render(loops, {"l": [0] * 1000}), TemplateError)

    # Memory

    def test_repetition(self) -> Deferred[None]:
        """A string times 10^9."""
        return self.check("{{ 'a' * 10 ** 9 }}", "memory")

    def test_doubling(self) -> Deferred[None]:
        """A string that is joined to itself again and again."""
        doubling = "{% set a = 'aaaaaaaaaaaaaaaa' %}" + "{% set a = a ~ a %}" * 40
        return self.check(doubling + "{{ a|length }}", "memory")

    def test_center(self) -> Deferred[None]:
        """``center`` to 10^10 columns."""
        return self.check("{{ 'a'|center(10 ** 10) }}", "memory")

    def test_format(self) -> Deferred[None]:
        """``format`` with a width of 10^9."""
        return self.check("{{ '%1000000000d'|format(1) }}", "memory")

    def test_format_method(self) -> Deferred[None]:
        """The same by the method of a string."""
        return self.check("{{ '{:1000000000}'.format(1) }}", "memory")

    def test_indent(self) -> Deferred[None]:
        """``indent`` of many lines by very much."""
        return self.check("{{ ('a\n' * 10000)|indent(1000000) }}", "memory")

    def test_replace(self) -> Deferred[None]:
        """``replace`` that multiplies."""
        return self.check("{{ ('a' * 100000)|replace('a', 'b' * 100000)|length }}", "memory")

    def test_lists(self) -> Deferred[None]:
        """A list times 10^9."""
        return self.check("{{ ([0] * 10 ** 9)|length }}", "memory")

    # The compiler

    def test_deep_parentheses(self) -> Deferred[None]:
        """100,000 parentheses at compile time."""
        return self.check("{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}", "deep")

    def test_deep_blocks(self) -> Deferred[None]:
        """20,000 nested conditions."""
        return self.check("{% if a %}" * 20_000 + "{% endif %}" * 20_000)

    def test_deep_unary(self) -> Deferred[None]:
        """100,000 signs before a number."""
        return self.check("{{ " + "-" * 100_000 + "1 }}")

    def test_long_chain(self) -> Deferred[None]:
        """100,000 additions in a row."""
        return self.check("{{ 1" + " + 1" * 100_000 + " }}")

    # Output

    def test_output(self) -> Deferred[None]:
        """A result past the bound is not finished."""
        return self.check("{% for a in l %}{{ b }}{% endfor %}", "longer than", l=[0] * 1000, b="x" * 100_000)


class ConfinedTests(TestCase):
    """What else the process can and cannot."""

    def test_many(self) -> Deferred[None]:
        """Two processes render many bodies, each with its own result."""
        renderer = Renderer(reactor, Limits(waiting=1000))
        self.addCleanup(renderer.stop)
        rendering = [renderer.render("{{ n }}" + "x" * 5000, {"n": number}) for number in range(200)]

        def compare(said: list[Rendered]) -> None:
            self.assertEqual([each.text.rstrip("x") for each in said], [str(number) for number in range(200)])

        return gatherResults(rendering).addCallback(compare)

    def test_large(self) -> Deferred[None]:
        """A body of a megabyte with a megabyte of variables is rendered."""
        renderer = Renderer(reactor)
        self.addCleanup(renderer.stop)
        source = "<p>é{{ a }}</p>" + "<td>text</td>" * 80_000
        done = renderer.render(source, {"a": "x" * 1_000_000})
        return done.addCallback(lambda said: self.assertEqual(len(said.text), len(source) - 7 + 1_000_000))

    def test_gone_with_us(self) -> Deferred[None]:
        """After stop no process is left."""
        renderer = Renderer(reactor)

        async def run() -> None:
            await renderer.render("x", {})
            children = Path(f"/proc/self/task/{os.getpid()}/children")
            before = children.read_text().split() if children.exists() else []
            await renderer.stop()
            after = children.read_text().split() if children.exists() else []
            self.assertEqual(len(after), max(0, len(before) - 1))

        return Deferred.fromCoroutine(run())
