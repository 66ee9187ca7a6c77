"""``/templates/ID/history``: what a template was, and how it comes back."""

from __future__ import annotations

from functools import partial

from relay.embedded import templates
from relay.embedded.resource import Answer
from relay.embedded.rules import Refused
from relay.embedded.templates import Version
from relay.embedded.web.editor import At, previewed, sample
from relay.embedded.web.frame import Form, html
from relay.embedded.web.preview import harmless


async def listed(at: At) -> Answer:
    """Every version, newest first."""
    found = await at.template()
    versions = await at.platform.read(partial(templates.versions, account=at.tenant.id, id=found.id))
    return html("template-history.html", at.viewer, template=found, versions=versions)


async def shown(at: At) -> Answer:
    """One version."""
    found, version = await at.template(), await _version(at)
    return html("template-version.html", at.viewer, template=found, version=version)


async def preview(at: At) -> Answer:
    """The HTML of one version with the variables that the template is tried with, by itself."""
    version = await _version(at)
    return harmless((await previewed(at, version.fields, await sample(at))).fields.body)


async def restore(at: At, form: Form) -> Answer:
    """That version again."""
    number, author, now = _number(at), at.viewer.user.email, at.platform.now()
    back = partial(templates.restore, account=at.tenant.id, id=at.id, number=number, author=author, now=now)
    saved = await at.platform.write(back)
    words = f"Version {number} is back, as version {saved.version}"
    return at.page.see_other(at.request, f"/templates/{saved.id}", words)


async def _version(at: At) -> Version:
    number = _number(at)
    return await at.platform.read(partial(templates.version, account=at.tenant.id, id=at.id, number=number))


def _number(at: At) -> int:
    text = at.below[1]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Refused(404, "Not found", "This template has no such version")
    return int(text)
