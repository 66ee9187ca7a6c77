"""What a submission must be (HTTP_CONTRACT.md, "Rules of that platform"): pure checks.

Each refusal says what to change.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

import attrs

from relay import wire
from relay.embedded.accounts import Tenant
from relay.values import Attachment, JSONObject, Submission

#: The tag of a message that has none; it does not count among an account's tags.
UNTAGGED = "untagged"
LONGEST_TAG = 18
MOST_TAGS = 400

#: Longest text field but the body, in characters: subjects and names, not documents.
LONGEST_FIELD = 10_000

#: Deepest nesting of variables.
DEEPEST_VARIABLES = 100

_TAG = re.compile(rf"[a-z0-9._-]{{1,{LONGEST_TAG}}}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
_LOCAL = r"""(?:[^\s"(),:;<>@\[\\\]\x00-\x1f\x7f]+|"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*")"""
_DOMAIN = r"(?:\[[0-9A-Za-z:.-]+\]|[\w-]+(?:\.[\w-]+)*)"
_ADDRESS = re.compile(f"{_LOCAL}@{_DOMAIN}")


class Refused(Exception):
    """An HTTP request that gets an error.

    :ivar status: the HTTP status.
    :ivar title: what kind of error, in two or three words.
    :ivar description: what to change, for the one who sent it.
    :ivar headers: further headers of the answer.
    """

    def __init__(self, status: int, title: str, description: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(status, title, description)
        self.status = status
        self.title = title
        self.description = description
        self.headers = tuple(headers)


def wrong(description: str) -> Refused:
    """400: a parameter is wrong."""
    return Refused(400, "Wrong parameter", description)


def check(submission: Submission, tenant: Tenant) -> Submission:
    """*submission* as it is stored: tag lower-cased, route an id, no text that a database refuses.

    :param submission: its template, where it names one, is applied already.
    :raises Refused: 400 for a wrong parameter, 403 for what this account does not have.
    """
    for name in wire.TEXT_FIELDS:
        if name != "body":
            check_line(name, getattr(submission, name))
    _check_recipient(submission.to)
    checked = attrs.evolve(submission, tag=tag(submission.tag), body=storable(submission.body))
    if not checked.subject.strip():
        raise wrong("subject: is missing")
    if not checked.body.strip() and not checked.template:
        raise wrong("body: is missing; it may be empty only with a template")
    return attrs.evolve(checked, route=route_of(checked.route, tenant))


def shown(text: str) -> str:
    """*text* of a client's as it may stand in an error."""
    return _CONTROL.sub("\ufffd", text.strip())[:100]


def storable(text: str) -> str:
    """*text* with NUL and lone surrogates, which databases refuse, as U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def check_variables(variables: JSONObject | None) -> None:
    """Bound what every later step walks through: how deep that goes by itself depends on the Python.

    :raises Refused: 400, the variables are nested too deeply.
    """
    level: list[object] = [variables]
    for _ in range(DEEPEST_VARIABLES):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise wrong(f"variables: are nested more than {DEEPEST_VARIABLES} deep")


def fingerprint(submission: Submission) -> str:
    """What makes two submissions the same: every field and file, whatever the order of the JSON."""
    fields = [getattr(submission, name) for name in wire.TEXT_FIELDS]
    files = [
        [each.filename, each.content_type, hashlib.sha256(each.content).hexdigest()] for each in submission.attachments
    ]
    return digest([fields, submission.variables, files])


def digest(value: object) -> str:
    """What stands for *value*, whatever the order of its objects; it is JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def attachment(given: Attachment) -> Attachment:
    """A file whose name and type a database takes; control characters become spaces."""
    return attrs.evolve(
        given,
        filename=_CONTROL.sub(" ", given.filename)[:255],
        content_type=_CONTROL.sub(" ", given.content_type)[:255],
    )


def check_line(name: str, value: str) -> None:
    """A control character in a header field would be a header of its own one day.

    :raises Refused: 400, *value* is too long or not one line.
    """
    if len(value) > LONGEST_FIELD:
        raise wrong(f"{name}: is longer than {LONGEST_FIELD} characters")
    if _CONTROL.search(value):
        raise wrong(f"{name}: must not hold control characters or line ends")


def _check_recipient(to: str) -> None:
    if not to.strip():
        raise wrong("to: is missing")
    if not is_address(to):
        raise wrong(f"to: is not an address like name@example.com: {to[:100]}")


def is_address(text: str) -> bool:
    """Whether *text* is an address alone, as RFC 5321 section 4.1.2 has them, within its lengths."""
    local, _, domain = text.rpartition("@")
    return bool(_ADDRESS.fullmatch(text)) and len(local) <= 64 and len(domain) <= 255


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list) else ()


def tag(given: str) -> str:
    """*given* as tags are kept.

    :raises Refused: 400, it is none.
    """
    name = given.strip().lower() or UNTAGGED
    if not _TAG.fullmatch(name):
        raise wrong(f"tag: must be at most {LONGEST_TAG} of a-z 0-9 . _ - and is {name[:100]}")
    return name


def known_tag(given: str) -> str:
    """The tag of a message that was refused: one that is none counts as untagged."""
    name = given.strip().lower()
    return name if _TAG.fullmatch(name) else UNTAGGED


def route_of(given: str, tenant: Tenant) -> str:
    """The id of the route that a message goes by which names *given*, an id or a name in any case.

    :raises Refused: 400 where it must name one, 403 where the account has it not.
    """
    wanted = given.strip().lower()
    named = ", ".join(each.id for each in tenant.routes) or "none"
    if not wanted:
        if tenant.default_route:
            return tenant.default_route
        if tenant.routes:
            raise wrong(f"route: this account has several, name one of {named}")
        raise Refused(403, "Route not available", "This account has no route")
    for route in tenant.routes:
        if wanted in (route.id.lower(), route.name.lower()):
            return route.id
    raise Refused(403, "Route not available", f"This account has no route {given.strip()[:100]}; it has {named}")
