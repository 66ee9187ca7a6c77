"""Templates: what an account keeps for its messages, and every version of it.  Every query carries the account."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import attrs
import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.exc import IntegrityError

from relay.embedded import rules
from relay.embedded.rules import Refused, wrong
from relay.embedded.schema import template_versions, templates
from relay.embedded.template import LONGEST_SOURCE
from relay.values import Submission

#: Most templates of an account, most versions kept of one, longest id and name.
MOST_TEMPLATES = 1000
MOST_VERSIONS = 100
LONGEST_ID = 32
LONGEST_NAME = 200

#: Longest variables that are kept to try a template with, in characters.
LONGEST_SAMPLE = 100_000

#: Who saved a version through the API.
API = "API"

_ID = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{LONGEST_ID - 1}}}")

#: What of a template wins over the message's where it is not blank (HTTP_CONTRACT.md).
_WINS = ("fromname", "fromemail", "returnpath", "subject", "replyto", "tag", "body")


@frozen
class Fields:
    """What a template says.

    :ivar name: for people; the other fields have the names and the meaning of the contract.
    :ivar body: HTML with Jinja2.
    """

    name: str
    subject: str = ""
    fromname: str = ""
    fromemail: str = ""
    replyto: str = ""
    returnpath: str = ""
    tag: str = ""
    body: str = field(default="", repr=False)


@frozen
class Template:
    """A template as it is now; times in seconds since the epoch.

    :ivar version: counts its saves, from 1.
    """

    id: str
    version: int
    created: float
    updated: float
    fields: Fields


@frozen
class Version:
    """A template as it was saved once.

    :ivar author: the e-mail address of who saved it, or :data:`API`.
    """

    version: int
    saved: float
    author: str
    fields: Fields


_FIELDS = tuple(each.name for each in attrs.fields(Fields))
_WITHOUT_BODY = _FIELDS[:-1]


def checked(fields: Fields) -> Fields:
    """*fields* as they are stored.

    :raises Refused: 400, and which field is wrong.
    """
    fields = attrs.evolve(fields, name=fields.name.strip(), body=rules.storable(fields.body))
    for name in _WITHOUT_BODY:
        rules.check_line(name, getattr(fields, name))
    if not fields.name:
        raise wrong("name: is missing")
    if len(fields.name) > LONGEST_NAME:
        raise wrong(f"name: is longer than {LONGEST_NAME} characters")
    if len(fields.body) > LONGEST_SOURCE:
        raise wrong(f"body: is longer than {LONGEST_SOURCE} characters")
    for name in ("fromemail", "returnpath"):
        address = getattr(fields, name)
        # A {{name}} becomes an address only with the variables of a message.
        if address and "{{" not in address and not rules.is_address(address):
            raise wrong(f"{name}: is not an address like name@example.com: {address[:100]}")
    return attrs.evolve(fields, tag=rules.tag(fields.tag) if fields.tag.strip() else "")


def applied(template: Template, submission: Submission) -> Submission:
    """*submission* with what its template says (HTTP_CONTRACT.md)."""
    own = {name: value for name in _WINS if (value := getattr(template.fields, name)).strip()}
    return attrs.evolve(submission, template=template.id, **own)


def listed(connection: sa.Connection, account: int, search: str = "", tag: str = "") -> list[Template]:
    """The account's templates by name, without their bodies.

    :param search: a part of the id, the name or the subject, in any case; ``""`` is any.
    :param tag: theirs; ``""`` is any.
    """
    query = sa.select(*_columns(_WITHOUT_BODY)).where(templates.c.account == account)
    if search:
        columns = (templates.c.id, templates.c.name, templates.c.subject)
        query = query.where(sa.or_(*(each.icontains(search, autoescape=True) for each in columns)))
    if tag:
        query = query.where(templates.c.tag == tag.lower())
    found = connection.execute(query.order_by(sa.func.lower(templates.c.name), templates.c.id))
    return [_template(row, _WITHOUT_BODY) for row in found]


def one(connection: sa.Connection, account: int, id: str) -> Template | None:
    """The account's template *id*, in any case."""
    wanted = id.strip().lower()
    if not _ID.fullmatch(wanted):
        return None
    row = connection.execute(sa.select(*_columns(_FIELDS)).where(*_mine(account, wanted))).one_or_none()
    return None if row is None else _template(row, _FIELDS)


def existing(connection: sa.Connection, account: int, id: str) -> Template:
    """The account's template *id*.

    :raises Refused: 404.
    """
    found = one(connection, account, id)
    if found is None:
        raise Refused(404, "Not found", "This account has no such template")
    return found


def create(connection: sa.Connection, account: int, id: str, fields: Fields, author: str, now: float) -> Template:
    """A new template.

    :param id: ``""``: one is made of the name.
    :raises Refused: 400 for a wrong id or one template too many, 409 for an id that is taken.
    """
    mine = templates.c.account == account
    if connection.execute(sa.select(sa.func.count()).where(mine)).scalar_one() >= MOST_TEMPLATES:
        raise wrong(f"This account has {MOST_TEMPLATES} templates, the most; delete one first")
    wanted = id.strip().lower() if id else _free(connection, account, fields.name)
    if not _ID.fullmatch(wanted):
        raise wrong(f"id: must be at most {LONGEST_ID} of a-z 0-9 . _ - and begin with a letter or digit")
    made = Template(wanted, 1, now, now, fields)
    try:
        with connection.begin_nested():
            values = {"account": account, "id": wanted, "version": 1, "created": now, "updated": now}
            connection.execute(sa.insert(templates).values(**values, **attrs.asdict(fields)))
    except IntegrityError:
        raise Refused(409, "Template exists", f"This account has a template {wanted} already") from None
    _keep(connection, account, made, author)
    return made


def save(
    connection: sa.Connection,
    account: int,
    id: str,
    fields: Fields,
    author: str,
    now: float,
    *,
    known: int | None = None,
) -> Template:
    """The template with *fields*, as a new version; one that says nothing new is none.

    :param known: the version that who saves has seen; None saves over any.
    :raises Refused: 404, or 409 where another version was saved since.
    """
    # Locked before it is read: of two savers at once the second sees what the first one left.
    connection.execute(sa.select(templates.c.id).where(*_mine(account, id.strip().lower())).with_for_update())
    found = existing(connection, account, id)
    if known is not None and known != found.version:
        raise Refused(
            409, "Saved meanwhile", f"Version {found.version} was saved after version {known}, which you changed"
        )
    if fields == found.fields:
        return found
    saved = Template(found.id, found.version + 1, found.created, now, fields)
    values = {"version": saved.version, "updated": now, **attrs.asdict(fields)}
    connection.execute(sa.update(templates).where(*_mine(account, found.id)).values(values))
    _keep(connection, account, saved, author)
    return saved


def sample(connection: sa.Connection, account: int, id: str) -> str:
    """The variables that the account tries a template with, as they were typed."""
    found: str | None = connection.execute(sa.select(templates.c.sample).where(*_mine(account, id.lower()))).scalar()
    return found or ""


def keep_sample(connection: sa.Connection, account: int, id: str, text: str) -> None:
    """Keep variables to try a template with; they are no part of its versions."""
    connection.execute(sa.update(templates).where(*_mine(account, id)).values(sample=text[:LONGEST_SAMPLE]))


def remove(connection: sa.Connection, account: int, id: str) -> None:
    """Forget a template and its versions.

    :raises Refused: 404.
    """
    found = existing(connection, account, id)
    connection.execute(sa.delete(templates).where(*_mine(account, found.id)))


def duplicate(connection: sa.Connection, account: int, id: str, author: str, now: float) -> Template:
    """A new template that says the same, with a name and an id of its own.

    :raises Refused: 404, or 400 for one template too many.
    """
    fields = existing(connection, account, id).fields
    name = f"Copy of {fields.name}"[:LONGEST_NAME]
    copy = create(connection, account, "", attrs.evolve(fields, name=name), author, now)
    keep_sample(connection, account, copy.id, sample(connection, account, id))
    return copy


def versions(connection: sa.Connection, account: int, id: str) -> list[Version]:
    """What is kept of a template, newest first.

    :raises Refused: 404.
    """
    found = existing(connection, account, id)
    rows = connection.execute(
        sa.select(template_versions)
        .where(template_versions.c.account == account, template_versions.c.template == found.id)
        .order_by(template_versions.c.version.desc())
    )
    return [_version(row) for row in rows]


def version(connection: sa.Connection, account: int, id: str, number: int) -> Version:
    """One version of a template.

    :raises Refused: 404.
    """
    found = existing(connection, account, id)
    row = connection.execute(
        sa.select(template_versions).where(
            template_versions.c.account == account,
            template_versions.c.template == found.id,
            template_versions.c.version == number,
        )
    ).one_or_none()
    if row is None:
        raise Refused(404, "Not found", "This template has no such version, or none any more")
    return _version(row)


def restore(connection: sa.Connection, account: int, id: str, number: int, author: str, now: float) -> Template:
    """The template as version *number* was; that becomes its newest version.

    :raises Refused: 404.
    """
    return save(connection, account, id, version(connection, account, id, number).fields, author, now)


def slug(name: str) -> str:
    """An id that tells of *name*: ``Grüße, Jane!`` is ``grusse-jane``."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")[:LONGEST_ID].rstrip("-") or "template"


def _free(connection: sa.Connection, account: int, name: str) -> str:
    """An id that tells of *name* and is not taken."""
    wanted = slug(name)
    stem = wanted[: LONGEST_ID - 5]
    taken = set(connection.execute(sa.select(templates.c.id).where(templates.c.account == account)).scalars())
    others = (f"{stem}-{number}" for number in range(2, MOST_TEMPLATES + 2))
    return next(each for each in (wanted, *others) if each not in taken)


def _keep(connection: sa.Connection, account: int, saved: Template, author: str) -> None:
    """Keep *saved* among the versions, and no more of them than :data:`MOST_VERSIONS`."""
    values = {"account": account, "template": saved.id, "version": saved.version, "saved": saved.updated}
    connection.execute(sa.insert(template_versions).values(**values, author=author, **attrs.asdict(saved.fields)))
    connection.execute(
        sa.delete(template_versions).where(
            template_versions.c.account == account,
            template_versions.c.template == saved.id,
            template_versions.c.version <= saved.version - MOST_VERSIONS,
        )
    )


def _mine(account: int, id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return templates.c.account == account, templates.c.id == id


def _columns(fields: tuple[str, ...]) -> list[sa.Column[Any]]:
    return [templates.c[name] for name in ("id", "version", "created", "updated", *fields)]


def _template(row: sa.Row[Any], fields: tuple[str, ...]) -> Template:
    id, version, created, updated, *texts = tuple(row)
    return Template(id, version, created, updated, Fields(**dict(zip(fields, texts, strict=True))))


def _version(row: sa.Row[Any]) -> Version:
    return Version(row.version, row.saved, row.author, Fields(*(row._mapping[name] for name in _FIELDS)))
