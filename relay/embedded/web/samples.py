"""Code that sends a first message, in the languages and programs that people use.

The files in ``code/`` are templates of the code; what is put in is quoted as the language has it.
"""

from __future__ import annotations

import json
import shlex
from functools import cache
from typing import TYPE_CHECKING

from attrs import field, frozen

from relay.embedded.web.frame import asset

if TYPE_CHECKING:
    from jinja2 import Environment

#: What stands in the code where a certificate has to be trusted; it can be downloaded from the page.
CERTIFICATE = "certificate.pem"

#: What stands in the place of a key that is not shown.
NO_KEY = "YOUR-API-KEY"


@frozen
class Sample:
    """One way to send.

    :ivar id: in the URL.
    :ivar files: (where it belongs, its template) of each piece of code.
    :ivar trust: what to do where the relay's certificate is self-signed, when the code does not say it.
    """

    id: str
    label: str
    files: tuple[tuple[str, str], ...]
    trust: str = ""


_SSL_CERT_FILE = "start the program with SSL_CERT_FILE=certificate.pem in its environment"

SAMPLES = (
    Sample("swaks", "swaks", (("Shell", "swaks.sh"),)),
    Sample("curl", "curl", (("Shell", "curl.sh"),)),
    Sample("python", "Python", (("send.py", "send.py"),)),
    Sample("django", "Django", (("settings.py", "settings.py"), ("In a view", "django.py")), _SSL_CERT_FILE),
    Sample("node", "Node", (("npm install nodemailer, then send.js", "send.js"),)),
    Sample("php", "PHP", (("composer require phpmailer/phpmailer, then send.php", "send.php"),)),
    Sample(
        "laravel",
        "Laravel",
        ((".env", "laravel.env"), ("Anywhere, after php artisan config:clear", "laravel.php")),
        "set openssl.cafile to its path in php.ini",
    ),
    Sample(
        "rails",
        "Ruby on Rails",
        (("config/environments/production.rb", "rails.rb"), ("app/mailers/hello_mailer.rb", "mailer.rb")),
    ),
    Sample("go", "Go", (("send.go", "send.go"),), _SSL_CERT_FILE),
    Sample(
        "wordpress",
        "WordPress",
        (("wp-content/mu-plugins/smtp-relay.php", "wordpress.php"),),
        "put it beside the plugin",
    ),
    Sample(
        "postfix",
        "Postfix",
        (
            ("At the end of /etc/postfix/main.cf, then postfix reload", "main.cf"),
            ("/etc/postfix/relay_password, mode 0600", "relay_password"),
        ),
    ),
)


def by_id(id: str) -> Sample:
    """The sample of this id, the first one where there is none."""
    return next((sample for sample in SAMPLES if sample.id == id), SAMPLES[0])


@frozen
class Facts:
    """What is put into the code.

    :ivar host: the relay's name, for the HTTP API its URL.
    :ivar key: the API key, ``""`` where it may not be shown.
    :ivar self_signed: whether the relay made its certificate itself.
    """

    host: str
    port: int
    key: str = field(repr=False)
    self_signed: bool


def code(template: str, facts: Facts) -> str:
    """The code that the template makes of *facts*."""
    certificate = CERTIFICATE if facts.self_signed else ""
    return (
        _environment()
        .get_template(template)
        .render(host=facts.host, port=facts.port, key=facts.key or NO_KEY, certificate=certificate)
    )


def _python(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _single(text: str) -> str:
    """A string of PHP or Ruby in which nothing is put in by the language."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _ruby(text: str) -> str:
    return f'"{text}"' if text.replace("-", "").replace(".", "").isalnum() else _single(text)


def _env(text: str) -> str:
    """A value of a .env file; in single quotes nothing is put in."""
    return text if text.replace("-", "").replace(".", "").isalnum() else _single(text)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: asset("code", f"{name}.txt").decode())
    environment = Environment(loader=loader, autoescape=False, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(sh=shlex.quote, py=_python, js=_python, php=_single, rb=_ruby, env=_env)
    return environment
