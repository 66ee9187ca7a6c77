"""Sphinx configuration, and the ``generated`` directive: reference text made from the code."""

import sys
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1]))

from relay import __version__, config, replies
from relay.errors import Failure, Reason
from relay.operate.metrics import Metrics

project = "smtp-relay"
copyright = "the smtp-relay authors"
release = version = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"smtp-relay {__version__}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Objects of other projects are named, not linked: the build needs no network.
intersphinx_mapping: dict[str, tuple[str, None]] = {}
nitpicky = False


def _configuration() -> Iterator[str]:
    """One ``confval`` a key, with its variable and its flag."""
    for row in config.describe():
        yield f".. confval:: {row.key}"
        yield f"   :type: {row.type}{f', {row.allowed}' if row.allowed else ''}"
        yield f"   :default: ``{row.default}``" if row.default else "   :default: empty"
        yield ""
        yield f"   {row.doc}"
        yield f"   Variable ``{row.env}``{f', flag ``{row.flag}``' if row.flag else ''}."
        yield ""


def _replies() -> Iterator[str]:
    """A table of every reason and its reply."""
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield ""
    for cells in (("Reply", "Standard text", "In logs and metrics"), *_reply_rows()):
        yield f"   * - {cells[0]}"
        yield from (f"     - {cell}" for cell in cells[1:])


def _reply_rows() -> Iterator[tuple[str, str, str]]:
    for reason in Reason:
        reply = replies.reply(Failure(reason))
        yield f"``{reply.code} {reply.enhanced}``", reply.text, f"``{reason.value}``"


def _metrics() -> Iterator[str]:
    """A list of the metrics."""
    for family in Metrics().registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        yield f"``{family.name}{suffix}``"
        yield f"   {family.documentation}"
        yield ""


class Generated(SphinxDirective):
    """``.. generated::`` with one of the names below."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """See :class:`docutils.parsers.rst.Directive`."""
        made = {"configuration": _configuration, "replies": _replies, "metrics": _metrics}[self.arguments[0]]
        return self.parse_text_to_nodes("\n".join(made()))


def setup(app: Sphinx) -> None:
    """See Sphinx, "Application API"."""
    app.add_directive("generated", Generated)
