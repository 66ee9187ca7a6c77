"""The relay's own pipeline with two stages replaced."""

from typing import Any

import attrs
from twisted.logger import Logger

from relay.config import Config
from relay.errors import PermanentFailure, Reason
from relay.routing import tag
from relay.service import Platform, make_factory, make_pipeline
from relay.smtp.auth import Keys
from relay.smtp.factory import SubmissionFactory
from relay.values import Account, Message, Record

log = Logger()


def route_by_tag(message: Message, account: Account) -> str:
    """Newsletters go by a route of their own."""
    return "bulk" if tag(message.tag) == "newsletter" else "main"


def no_unfinished_subjects(message: Message) -> None:
    """Refuse what a programmer forgot to fill in."""
    if "TODO" in message.subject:
        raise PermanentFailure(Reason.BAD_MESSAGE, "The subject is not finished")


def tell(record: Record) -> None:
    """Called for every message, whatever became of it."""
    log.info("{record.id}: {record.result}", record=record)


def factory(config: Config, platform: Platform, reactor: Any) -> SubmissionFactory:
    """What to listen with: ``endpoint.listen(factory(...))``."""
    keys = Keys(platform.ping, config.auth, reactor)
    pipeline = make_pipeline(config, platform, keys, record=tell)
    pipeline = attrs.evolve(pipeline, route=route_by_tag, check=no_unfinished_subjects)
    return make_factory(config, pipeline, keys, clock=reactor)
