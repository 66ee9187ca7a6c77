"""The code on the page "Integrate", taken from the page and run: each sends its message."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from contextlib import ExitStack
from http.cookiejar import CookieJar
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.first import USER
from relay.embedded.web.samples import SAMPLES
from tests.integration import support
from tests.integration.clients import postfix
from tests.integration.clients.programs import DEADLINE, NODE_MODULES, ROOT, require

#: What a program finds in the place of Rails: the configuration is kept for ActionMailer.
RAILS = """
require "logger"
require "action_mailer"
Config = Struct.new(:action_mailer)
module Rails
  def self.application = self
  def self.configure(&block) = instance_eval(&block)
  def self.config = @config ||= Config.new(ActionMailer::Base)
end
load "production.rb"
load "hello_mailer.rb"
"""

#: In the place of Laravel: its transport is Symfony's, made of the .env as Laravel makes it.
LARAVEL = r"""<?php
namespace Illuminate\Support\Facades {
    use Symfony\Component\Mailer\Transport\{Dsn, Smtp\EsmtpTransportFactory};
    use Symfony\Component\Mime\{Address, Email};

    class Message {
        public function __construct(public Email $email) {}
        public function to($address, $name) { $this->email->to(new Address($address, $name)); return $this; }
        public function subject($subject) { $this->email->subject($subject); return $this; }
        public function getHeaders() { return $this->email->getHeaders(); }
    }

    class Mail {
        public static function html(string $html, callable $callback) {
            $env = parse_ini_file('.env', false, INI_SCANNER_RAW);
            $email = (new Email())->html($html)->from(new Address($env['MAIL_FROM_ADDRESS'], $env['MAIL_FROM_NAME']));
            $callback(new Message($email));
            $port = (int) $env['MAIL_PORT'];
            $dsn = new Dsn($env['MAIL_SCHEME'], $env['MAIL_HOST'], $env['MAIL_USERNAME'], $env['MAIL_PASSWORD'], $port);
            (new EsmtpTransportFactory())->create($dsn)->send($email);
        }
    }
}
namespace {
    require 'Symfony/Component/Mailer/autoload.php';
    require 'send.php';
}
"""

#: In the place of WordPress, whose wp_mail() is PHPMailer.
WORDPRESS = r"""<?php
require '/usr/share/php/libphp-phpmailer/autoload.php';
function add_action($name, $callback) { $GLOBALS['actions'][$name] = $callback; }
require 'mu-plugins/smtp-relay.php';
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->setFrom('wordpress@example.com', 'WordPress');
$mail->addAddress('someone@example.org', 'Someone');
$mail->Subject = 'Hello from WordPress';
$mail->isHTML(true);
$mail->Body = '<h1>It works</h1>';
$actions['phpmailer_init']($mail);
$mail->send();
"""


class SamplesTests(SynchronousTestCase):
    """A relay as the quickstart has it, and a user who pastes."""

    def setUp(self) -> None:
        self.stack = ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-samples-")))
        self.folder.chmod(0o711)  # Postfix' processes are not root's
        self.relay = self.stack.enter_context(support.running())
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.page("/sign-in"))
        assert csrf is not None
        lines = (self.relay.data / "first-passwords").read_text().splitlines()
        passwords = {email: password for _, email, password in map(str.split, lines)}
        fields = {"csrf": csrf[1], "email": USER, "password": passwords[USER]}
        self.page("/sign-in", urllib.parse.urlencode(fields).encode())
        (self.folder / "certificate.pem").write_text(self.page("/integrate/certificate.pem"))

    def page(self, path: str, form: bytes | None = None) -> str:
        """A page, as the user sees it."""
        with self.opener.open(f"http://127.0.0.1:{self.relay.dashboard}{path}", form, timeout=60) as reply:
            return str(reply.read().decode())

    def paste(self, id: str, *names: str, swap: tuple[str, str] = ("", "")) -> None:
        """Write the pieces of code that the page has for *id* to files of these names."""
        text = self.page(f"/integrate?code={id}")
        pieces = re.findall(r'<pre id="code-\d+" tabindex="0">(.*?)</pre>', text, re.S)
        self.assertEqual(len(pieces), len(names), id)
        for name, piece in zip(names, pieces, strict=True):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(html.unescape(piece).replace(*swap) + "\n")

    def write(self, name: str, text: str) -> None:
        """A file that the user has already."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def run_(self, *argv: str, **env: str) -> None:
        """Run a program where the files are; it has to end well."""
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout.decode("utf-8", "replace"))

    def arrived(self, subject: str, tag: str = "hello") -> None:
        """The message is there, and the page says so."""
        (message,) = self.relay.messages()
        wanted = {"subject": subject, "tag": tag, "to": "someone@example.org", "status": "captured"}
        self.assertEqual({name: message[name] for name in wanted}, wanted)
        self.assertIn(f'href="/message/{message["id"]}"', self.page("/integrate"))
        self.assertIn("&lt;h1&gt;It works&lt;/h1&gt;", self.page(f"/message/{message['id']}?view=source"))

    def test_every_one(self) -> None:
        """Each sample of the page has a test here."""
        self.assertEqual({f"test_{sample.id}" for sample in SAMPLES} - set(dir(self)), set())
        self.assertIn("Waiting for your first message", self.page("/integrate"))

    def test_swaks(self) -> None:
        """swaks."""
        require("swaks", "Debian swaks")
        self.paste("swaks", "swaks.sh")
        self.run_("bash", "swaks.sh")
        self.arrived("Hello from swaks")

    def test_curl(self) -> None:
        """curl."""
        require("curl", "Debian curl")
        self.paste("curl", "curl.sh")
        self.run_("bash", "curl.sh")
        self.arrived("Hello from curl")

    def test_python(self) -> None:
        """Python's smtplib."""
        self.paste("python", "send.py")
        self.run_(sys.executable, "send.py")
        self.arrived("Hello from Python")

    def test_django(self) -> None:
        """Django."""
        self.paste("django", "settings.py", "view.py")
        self.write("run.py", "import django\ndjango.setup()\nimport view\n")
        self.run_(sys.executable, "run.py", DJANGO_SETTINGS_MODULE="settings", SSL_CERT_FILE="certificate.pem")
        self.arrived("Hello from Django")

    def test_node(self) -> None:
        """nodemailer."""
        require(str(NODE_MODULES / "nodemailer"), "nodemailer: npm install --prefix .tox/node nodemailer")
        self.paste("node", "send.js")
        self.run_("node", "send.js", NODE_PATH=str(NODE_MODULES))
        self.arrived("Hello from Node")

    def test_php(self) -> None:
        """PHPMailer."""
        require("/usr/share/php/libphp-phpmailer/autoload.php", "Debian libphp-phpmailer and php-cli")
        self.write("vendor/autoload.php", "<?php require '/usr/share/php/libphp-phpmailer/autoload.php';")
        self.paste("php", "send.php")
        self.run_("php", "send.php")
        self.arrived("Hello from PHP")

    def test_laravel(self) -> None:
        """The .env and the code of Laravel, on Symfony's mailer, which Laravel sends with."""
        require("/usr/share/php/Symfony/Component/Mailer/autoload.php", "Debian php-symfony-mailer and php-cli")
        self.paste("laravel", ".env", "send.php")
        self.write("laravel.php", LARAVEL)
        self.run_("php", "-d", "openssl.cafile=certificate.pem", "laravel.php")
        self.arrived("Hello from Laravel")

    def test_rails(self) -> None:
        """Ruby on Rails' ActionMailer."""
        require("/usr/share/doc/ruby-actionmailer", "Debian ruby-actionmailer")
        self.paste("rails", "production.rb", "hello_mailer.rb")
        self.write("run.rb", RAILS)
        self.run_("ruby", "-W0", "run.rb")
        self.arrived("Hello from Rails")

    def test_go(self) -> None:
        """Go's net/smtp."""
        require("go", "Debian golang-go")
        self.paste("go", "send.go")
        cache = str(ROOT / ".tox" / "go")
        env = {"SSL_CERT_FILE": "certificate.pem", "GOCACHE": cache, "GOPATH": cache, "GO111MODULE": "off"}
        self.run_("go", "run", "send.go", **env)
        self.arrived("Hello from Go")

    def test_wordpress(self) -> None:
        """WordPress' PHPMailer, after the plugin has seen it."""
        require("/usr/share/php/libphp-phpmailer/autoload.php", "Debian libphp-phpmailer and php-cli")
        self.paste("wordpress", "mu-plugins/smtp-relay.php")
        (self.folder / "mu-plugins/certificate.pem").write_text((self.folder / "certificate.pem").read_text())
        self.write("wordpress.php", WORDPRESS)
        self.run_("php", "wordpress.php")
        self.arrived("Hello from WordPress", "wordpress")

    def test_postfix(self) -> None:
        """Postfix, with the page's lines at the end of its main.cf."""
        root = self.folder / "postfix"
        root.mkdir()
        self.paste("postfix", "main.cf", "relay_password", swap=("/etc/postfix/", f"{self.folder}/"))
        (self.folder / "relay_password").chmod(0o600)
        settings = (self.folder / "main.cf").read_text()
        server = self.stack.enter_context(postfix.running(root, self.relay.port, None, settings))
        message = (
            b"From: you@example.com\nTo: someone@example.org\nSubject: Hello from Postfix\n"
            b"X-Transactional-Tag: hello\nContent-Type: text/html\n\n<h1>It works</h1>\n"
        )
        server.send("you@example.com", ["someone@example.org"], message)
        server.wait_for("status=sent")
        self.arrived("Hello from Postfix")

    def test_http_api(self) -> None:
        """The HTTP API, with curl."""
        require("curl", "Debian curl")
        text = self.page("/integrate/api")
        (code,) = re.findall(r'<pre id="code-1" tabindex="0">(.*?)</pre>', text, re.S)
        self.write("api.sh", html.unescape(code))
        self.run_("bash", "api.sh")
        (message,) = self.relay.messages()
        self.assertEqual((message["subject"], message["tag"]), ("Hello Jane", "hello"))
