"""The configuration: sources, precedence, and problems that say what to change."""

from __future__ import annotations

import json
import os

from twisted.trial.unittest import SynchronousTestCase

from relay import config, policy
from relay.errors import ConfigError


class ConfigCase(SynchronousTestCase):
    def write(self, text: str) -> str:
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return os.path.abspath(path)

    def problems(self, flags=None, environ=None, path=None) -> tuple[str, ...]:
        return self.assertRaises(ConfigError, config.load, flags, environ, path).problems


class Sources(ConfigCase):
    def test_defaults(self):
        """With nothing given, every key has the default of the shared documents."""
        loaded = config.load()
        self.assertEqual(loaded.listen, ("tcp:587", "tcp:2525", "tcp:8025"))
        self.assertEqual(loaded.backend, ())
        self.assertEqual(loaded.admin, "tcp:9587:interface=127.0.0.1")
        self.assertEqual(loaded.limits, policy.Limits())
        self.assertEqual(loaded.session, policy.Session())
        self.assertTrue(os.path.isabs(loaded.data))
        self.assertEqual(loaded, config.Config())

    def test_file(self):
        """Keys of the top and of tables are read from the file with their types."""
        path = self.write(
            'listen = ["tcp:2525"]\nrequire_tls = "always"\ncheck_templates = false\n'
            "[limits]\nmessage_size = 2048\nidle = 5\n[platform]\nsend_path = '/send'\n"
        )
        loaded = config.load({}, {}, path)
        self.assertEqual(loaded.listen, ("tcp:2525",))
        self.assertEqual(loaded.session.require_tls, "always")
        self.assertIs(loaded.content.check_templates, False)
        self.assertEqual((loaded.limits.message_size, loaded.limits.idle), (2048, 5.0))
        self.assertEqual(loaded.platform.send_path, "/send")

    def test_environment(self):
        """Each key has a variable; lists are separated by spaces; an empty variable counts as not set."""
        loaded = config.load(
            environ={
                "SMTP_RELAY_LISTEN": "tcp:2525 tcp:8025:interface=127.0.0.1",
                "SMTP_RELAY_LIMITS_MESSAGE_SIZE": "4096",
                "SMTP_RELAY_HEADER_AUTH": "no",
                "SMTP_RELAY_BACKEND": "",
                "PATH": "/bin",
            }
        )
        self.assertEqual(loaded.listen, ("tcp:2525", "tcp:8025:interface=127.0.0.1"))
        self.assertEqual(loaded.limits.message_size, 4096)
        self.assertIs(loaded.session.header_auth, False)
        self.assertEqual(loaded.backend, ())

    def test_precedence(self):
        """A flag wins over the environment, that over the file; the source of each key is known."""
        path = self.write('hostname = "file.example"\nbackend = "http://file"\nadmin = "tcp:1"\n')
        environ = {
            "SMTP_RELAY_CONFIG": path,
            "SMTP_RELAY_HOSTNAME": "env.example",
            "SMTP_RELAY_BACKEND": "http://env",
        }
        loaded = config.load({"hostname": "flag.example", "backend": None, "listen": []}, environ)
        self.assertEqual((loaded.hostname, loaded.backend, loaded.admin), ("flag.example", ("http://env",), "tcp:1"))
        self.assertEqual(loaded.source("hostname"), "--hostname")
        self.assertEqual(loaded.source("backend"), "SMTP_RELAY_BACKEND")
        self.assertEqual(loaded.source("admin"), path)
        self.assertEqual(loaded.source("listen"), "the default of listen")

    def test_relative_paths(self):
        """A relative path in the file is taken from the file's directory."""
        path = self.write('data = "state"\n')
        self.assertEqual(config.load({}, {}, path).data, os.path.join(os.path.dirname(path), "state"))

    def test_kubernetes_variables(self):
        """The variables that Kubernetes makes for a service called smtp-relay are not taken for ours."""
        config.load(
            environ={
                "SMTP_RELAY_PORT": "tcp://10.0.0.1:2525",
                "SMTP_RELAY_PORT_2525_TCP_ADDR": "10.0.0.1",
                "SMTP_RELAY_SERVICE_HOST": "10.0.0.1",
                "SMTP_RELAY_SERVICE_PORT_SMTP": "2525",
            }
        )


class Problems(ConfigCase):
    def test_all_at_once(self):
        """Every problem of every source is reported together, each on one line."""
        path = self.write('bakend = "http://x"\nlog_format = "xml"\n[limits]\nmesage_size = 1\nidle = "long"\n')
        problems = self.problems(
            {"listen": ["tcp:2525", "tcp:99999", "25"], "hostname": "a b"},
            {"SMTP_RELAY_LIMTS_IDLE": "1", "SMTP_RELAY_LIMITS_RECIPIENTS": "0"},
            path,
        )
        self.assertEqual(
            problems,
            (
                f"{path}: bakend: unknown key; did you mean backend?",
                f"{path}: limits.mesage_size: unknown key; did you mean limits.message_size?",
                "SMTP_RELAY_LIMTS_IDLE: unknown variable; did you mean SMTP_RELAY_LIMITS_IDLE?",
                f"{path}: log_format = 'xml': must be text or json",
                f"{path}: limits.idle = 'long': must be a number, at least 1",
                "SMTP_RELAY_LIMITS_RECIPIENTS=0: must be at least 1",
                "--listen tcp:2525 tcp:99999 25: 'tcp:99999' must hold a port of 0 to 65535: "
                "tcp:PORT or tcp:PORT:interface=ADDRESS",
                "--listen tcp:2525 tcp:99999 25: '25' must be a Twisted endpoint, for a port: tcp:25",
                "--hostname a b: must be a host name of letters, digits, hyphens and dots, such as relay.example.com",
            ),
        )

    def test_overridden_values_are_checked(self):
        """A wrong value is refused even where another source overrides it."""
        self.assertEqual(len(self.problems({"backend": "http://x"}, {"SMTP_RELAY_BACKEND": "ftp://x"})), 1)

    def test_key_in_the_wrong_place(self):
        """A key that belongs into a table is found there."""
        path = self.write("message_size = 2048\n")
        self.assertEqual(
            self.problems(path=path), (f"{path}: message_size: unknown key; did you mean limits.message_size?",)
        )

    def test_wrong_types(self):
        """true is no number, a string no list, 1.5 no integer, a number no table."""
        for text in (
            "[limits]\nrecipients = true\n",
            "listen = []\n",
            "[limits]\nrecipients = 1.5\n",
            "limits = 3\n",
            "header_auth = 1\n",
            "[limits]\nidle = nan\n",
            'hostname = ""\n',
            "[auth]\ncache = -1\n",
            "[limits]\nmime_depth = 101\n",
        ):
            with self.subTest(text):
                self.assertEqual(len(self.problems(path=self.write(text))), 1)

    def test_file_that_cannot_be_read(self):
        """A missing file, one that is not TOML and one that is not UTF-8 are named."""
        self.assertIn(
            "/nonexistent: the configuration file cannot be read: No such", self.problems(path="/nonexistent")[0]
        )
        self.assertIn("line 2", self.problems(path=self.write("a = 1\nlisten = [,\n"))[0])
        path = self.write("")
        with open(path, "wb") as file:
            file.write(b"\xff")
        self.assertIn("not a TOML file", self.problems(path=path)[0])

    def test_certificate_files(self):
        """A certificate needs its key, and both must be readable."""
        path = self.write("pem")
        self.assertEqual(
            self.problems({"certificate": path}),
            ("--certificate: certificate is given without private_key: give both, or neither",),
        )
        problems = self.problems({"certificate": path, "private_key": "/nonexistent"})
        self.assertEqual(
            problems, ("--private-key /nonexistent: must be a file that can be read: No such file or directory",)
        )

    def test_endpoints(self):
        """A wrong endpoint is refused with the right form; every kind that Twisted has passes."""
        for good in (
            "tcp:0",
            "tcp:port=25",
            r"tcp6:2525:interface=\:\:1",
            "unix:/run/relay.sock",
            "systemd:domain=INET:index=0",
            "haproxy:tcp:2525",
            "onion:25",
        ):
            with self.subTest(good):
                self.assertEqual(config.load({"admin": good}).admin, good)
        for bad, hint in (
            ("2525", "tcp:2525"),
            ("tpc:2525", "did you mean tcp?"),
            ("tcp:", "port"),
            ("tcp:smtp", "port"),
            ("tcp:25:interface=::1", "escaped"),
            ("tcp:25:iface=::1", "port"),
            ("tcp:25:iface=1", "interface and backlog"),
            ("haproxy:25", "tcp:25"),
            ("haproxy", "endpoint"),
            (":25", "endpoint"),
        ):
            with self.subTest(bad):
                self.assertIn(hint, self.problems({"admin": bad})[0])

    def test_backend(self):
        """The backend is an http or https URL; a password in it is refused and not repeated."""
        self.assertEqual(
            config.load({"backend": "https://api.example.com/v1/"}).backend, ("https://api.example.com/v1",)
        )
        for bad in ("api.example.com", "ftp://x", "http://", "http://x/?a", "http://[::1", "http://x:port"):
            with self.subTest(bad):
                self.assertIn("must be a URL", self.problems({"backend": bad})[0])
        problem = self.problems({"backend": "https://me:hunter2@x"})[0]
        self.assertIn("user name", problem)
        self.assertNotIn("hunter2", problem)

    def test_networks(self):
        """proxy_from takes addresses and networks."""
        path = self.write('proxy_from = ["10.1.2.3/8", "::1"]\n')
        self.assertEqual(config.load(path=path).proxy_from, ("10.0.0.0/8", "::1/128"))
        self.assertEqual(len(self.problems(path=self.write('proxy_from = ["10.0.0.0/33"]\n'))), 1)


class Documents(ConfigCase):
    def test_describe(self):
        """Every key of every policy is documented with variable, type and default."""
        rows = {row.key: row for row in config.describe()}
        for name in ("limits.message_size", "require_tls", "auth.cache", "platform.timeout", "text_only", "listen"):
            self.assertIn(name, rows)
        row = rows["limits.message_size"]
        self.assertEqual(
            (row.env, row.flag, row.type, row.default, row.allowed),
            ("SMTP_RELAY_LIMITS_MESSAGE_SIZE", "", "integer", "31457280", "at least 1024"),
        )
        self.assertEqual(rows["private_key"].flag, "--private-key")

    def test_table(self):
        """The table of the documents has a row for every key."""
        table = config.table()
        for row in config.describe():
            self.assertIn(f"* - ``{row.key}``\n", table)

    def test_defaults_are_valid(self):
        """Every fixed default passes its own check."""
        for key in config.KEYS:
            if isinstance(key.default, str | int | float | bool | tuple) and key.default != "":
                with self.subTest(key.path):
                    self.assertEqual(key.parse(key.default, text=False), key.default)


class Workers(ConfigCase):
    def test_number(self):
        """A number or "auto", in the file with or without quotes; anything else is refused with what is allowed."""
        for text, processes in (("3", 3), ('"3"', 3), ('"auto"', config.Config(workers="auto").processes)):
            self.assertEqual(config.load({}, {}, self.write(f"workers = {text}\n")).processes, processes)
        self.assertGreaterEqual(config.Config(workers="auto").processes, 1)
        self.assertEqual(config.load({"workers": "64"}).processes, 64)
        for wrong in ("0", "65", "-1", "many", "1.5", "²"):
            (problem,) = self.problems({"workers": wrong})
            self.assertEqual(problem, f"--workers {wrong}: must be auto or a number of 1 to 64")

    def test_handed_over(self):
        """Another process gets the very same configuration, with its sources, by way of JSON."""
        path = self.write('listen = ["tcp:1"]\n[limits]\nidle = 5\n[spool]\nurl = "postgresql://u:secret@h/d"\n')
        loaded = config.load({"workers": "2"}, {}, path)
        taken = config.taken_over(json.loads(json.dumps(config.handed_over(loaded))))
        self.assertEqual(taken, loaded)
        self.assertEqual(taken.sources, loaded.sources)

    def test_difference(self):
        """What differs between two configurations is known by key, and a part of it can be kept."""
        one = config.load({}, {}, self.write("[limits]\nidle = 5\n"))
        other = config.load({"admin": "tcp:1"}, {}, self.write("[limits]\nidle = 6\n"))
        self.assertEqual(config.differing(one, other), ["admin", "limits.idle"])
        kept = config.with_values_of(one, ["admin"], other)
        self.assertEqual((kept.admin, kept.limits.idle), (one.admin, 6.0))
