"""Every limit and policy of the relay, declared once: name, default, bounds and meaning.

A group is a frozen class that the module it governs takes as an argument; :mod:`relay.config` reads the
groups from TOML, environment and flags; ``docs/configuration`` is made from them.  Sizes are in bytes,
times in seconds.
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen


def setting(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """One key of the configuration: its default, its meaning, and the values allowed."""
    return field(
        default=default,
        metadata={"doc": doc, "choices": choices, "minimum": minimum, "maximum": maximum},
    )


@frozen
class Limits:
    """``[limits]``: sizes, counts and times of the SMTP side (SMTP.md, "Sizes and times")."""

    message_size: int = setting(31_457_280, "Largest message; offered as SIZE.", minimum=1024)
    recipients: int = setting(1000, "Most recipients of one message.", minimum=1)
    command_line: int = setting(2048, "Longest command line.", minimum=512)
    auth_line: int = setting(12_288, "Longest line of an AUTH exchange.", minimum=512)
    header_block: int = setting(262_144, "Largest header block of a message.", minimum=1024)
    connections: int = setting(1000, "Most connections at a time.", minimum=1)
    connections_per_address: int = setting(100, "Most connections at a time from one address.", minimum=1)
    idle: float = setting(300.0, "Longest silence between two commands, or within DATA.", minimum=1)
    greeting: float = setting(60.0, "Deadline for each of greeting, STARTTLS and AUTH as a whole.", minimum=1)
    data: float = setting(600.0, "Deadline for DATA as a whole.", minimum=1)
    errors: int = setting(10, "Errors in a session before it is closed with 421.", minimum=1)
    auth_failures: int = setting(3, "Failed authentications in a session before it is closed with 421.", minimum=1)
    memory: int = setting(536_870_912, "Memory held by messages in flight; past it 452.", minimum=1024)
    messages_per_minute: int = setting(
        0, "Most messages a minute from one account or address; 0 is no limit.", minimum=0
    )
    mime_depth: int = setting(30, "Deepest nesting of MIME parts.", minimum=1, maximum=100)
    mime_parts: int = setting(500, "Most MIME parts of a message.", minimum=1, maximum=10_000)
    variables_depth: int = setting(32, "Deepest nesting of X-Transactional-Variables.", minimum=1, maximum=100)
    drain: float = setting(30.0, "How long deliveries in flight may take when the relay stops.", minimum=0)


@frozen
class Session:
    """Policies of the SMTP session (SMTP.md); keys at the top of the file."""

    require_tls: str = setting(
        "remote",
        "Who needs TLS before AUTH and MAIL: every peer that is not loopback, all, or none.",
        choices=("remote", "always", "never"),
    )
    header_auth: bool = setting(True, "Whether X-Auth-APIKey stands in for AUTH; false refuses MAIL without AUTH.")
    bare_newline: str = setting(
        "normalize",
        "What becomes of a CR or LF alone within a message: it is made CR LF, or the message is refused.",
        choices=("normalize", "reject"),
    )


@frozen
class Content:
    """Policies of the message (MESSAGE.md); keys at the top of the file."""

    text_only: str = setting(
        "convert",
        "What becomes of a message without HTML: its text is made into HTML, or it is refused.",
        choices=("convert", "reject"),
    )
    attachments: str = setting(
        "reject",
        "What becomes of attachments that are not images: refused, removed, or sent on as multipart/form-data.",
        choices=("reject", "strip", "forward"),
    )
    check_templates: bool = setting(
        True,
        "Whether the Jinja2 syntax of a body with variables is checked; false for a platform with another dialect.",
    )


@frozen
class Auth:
    """``[auth]``: how API keys are checked and remembered (SMTP.md, "Authentication")."""

    cache: float = setting(60.0, "How long an accepted key is not asked for again.", minimum=0)
    refused_cache: float = setting(5.0, "How long a refused key is not asked for again.", minimum=0)
    stale: float = setting(
        3600.0, "How long an accepted key still passes while the platform is unreachable.", minimum=0
    )
    cache_size: int = setting(10_000, "Most keys remembered.", minimum=1)
    delay: float = setting(
        1.0, "Delay after a failure of an address or a key; doubles with each, 0 is none.", minimum=0
    )
    delay_maximum: float = setting(10.0, "Longest such delay.", minimum=0, maximum=50)


@frozen
class Platform:
    """``[platform]``: how the platform's HTTP API is reached (HTTP_CONTRACT.md)."""

    send_path: str = setting("/api/transactional/send", "Path of the submission, below the backend's URL.")
    ping_path: str = setting("/api/ping", "Path of the key check, below the backend's URL.")
    ca_file: str = setting(
        "", "PEM file of the authorities that may sign the platform's certificate; empty: the system's."
    )
    timeout: float = setting(30.0, "Deadline of one submission, from connect to the end of the answer.", minimum=0.1)
    ping_timeout: float = setting(10.0, "Deadline of one key check.", minimum=0.1)
    connections: int = setting(100, "Most connections kept open to the platform.", minimum=1)
    concurrency: int = setting(10, "Recipients of one message posted side by side.", minimum=1, maximum=1000)
    answer_size: int = setting(65_536, "Largest answer that is read.", minimum=1024)
    retry_after_maximum: float = setting(3600.0, "Longest Retry-After that is honoured.", minimum=1)


@frozen
class Delivery:
    """``[delivery]``: when a client gets its answer."""

    mode: str = setting(
        "direct-first",
        "Post while the client waits and spool what fails; spool everything and post then; or never spool (451).",
        choices=("direct-first", "spool-first", "direct"),
    )
    wait: float = setting(4.0, "How long a client waits for the platform before its message is spooled.", minimum=0)


@frozen
class Spool:
    """``[spool]``: where messages wait that the platform could not take, and how they are tried again."""

    url: str = setting("", "postgresql://user:password@host/database for several relays; empty: SQLite under data.")
    key_file: str = setting("", "File with the key that API keys are encrypted with; empty: spool.key under data.")
    max_bytes: int = setting(10_737_418_240, "Most content kept; past it 452.", minimum=0)
    max_rows: int = setting(1_000_000, "Most recipients kept; past it 452.", minimum=1)
    min_free: int = setting(268_435_456, "Least free space of the volume; below it 452.", minimum=0)
    concurrency: int = setting(20, "Recipients posted side by side from the spool.", minimum=1, maximum=1000)
    retry_first: float = setting(15.0, "Delay before the second attempt; doubles with each.", minimum=0.1)
    retry_maximum: float = setting(1800.0, "Longest delay between two attempts.", minimum=0.1)
    give_up: float = setting(86_400.0, "Age at which a recipient that was not accepted becomes a failure.", minimum=1)
    lease: float = setting(60.0, "How long another relay leaves a row alone whose relay is gone.", minimum=1)
    keep_failures: float = setting(604_800.0, "How long failures are kept.", minimum=0)


@frozen
class Breaker:
    """``[breaker]``: when a platform counts as down."""

    failures: int = setting(
        5, "Temporary failures in a row after which new messages go straight to the spool.", minimum=1
    )
    probe: float = setting(5.0, "Time between two probes of a platform that is down.", minimum=0.1)


@frozen
class Ledger:
    """``[ledger]``: how long a message is remembered whose verdict its client may not know."""

    keep: float = setting(86_400.0, "How long a repetition of such a message posts only what is missing.", minimum=0)


@frozen
class Failures:
    """``[failures]``: who is told of recipients that are given up."""

    webhook: str = setting("", "URL that each failure is POSTed to as JSON; empty: none.")


@frozen
class Embedded:
    """``[embedded]``: the embedded backend, where no platform is configured."""

    database: str = setting(
        "", "postgresql://user:password@host/database for several relays; empty: SQLite under data."
    )
    key_file: str = setting(
        "", "File with the key that API keys and passwords are encrypted with; empty: platform.key under data."
    )
    public_url: str = setting(
        "", "URL that people reach the pages at, through a proxy for instance; with https cookies are Secure."
    )
    keep_content: float = setting(2_592_000.0, "How long the content of a message is kept; 0 is for ever.", minimum=0)
    keep_log: float = setting(7_776_000.0, "How long a message stands in the log; 0 is for ever.", minimum=0)
    session: float = setting(
        604_800.0, "Time without a look at a page after which one has to sign in again.", minimum=60
    )
    retry_first: float = setting(
        15.0, "Delay before a route is tried a second time for a message; doubles with each.", minimum=0.1
    )
    retry_maximum: float = setting(1800.0, "Longest delay between two such attempts.", minimum=0.1)
    give_up: float = setting(86_400.0, "Age at which a message that its route has not taken fails.", minimum=1)
    lease: float = setting(
        60.0, "How long another relay leaves a message alone whose relay is gone, on PostgreSQL.", minimum=1
    )
    maildir: str = setting("", "Folder below which maildir routes store; empty: maildir under data.")
