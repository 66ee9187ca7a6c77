"""The embedded backend on a real PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from twisted.trial.unittest import SynchronousTestCase

from relay.embedded.database import open_postgresql
from tests.contract.test_deliveries_contract import DeliveriesContract
from tests.contract.test_messages_contract import MessagesContract
from tests.contract.test_platform_schema import SchemaContract
from tests.contract.test_routes_contract import RoutesContract
from tests.contract.test_templates_contract import TemplatesContract
from tests.integration import postgresql


class SchemaTests(SchemaContract, SynchronousTestCase):
    """Its tables."""

    def new_engine(self) -> sa.Engine:
        engine = open_postgresql(postgresql.new_database(self))
        self.addCleanup(engine.dispose)
        return engine


class MessagesTests(MessagesContract, SynchronousTestCase):
    """Its messages."""

    def setUp(self) -> None:
        self.engine = open_postgresql(postgresql.new_database(self))
        self.addCleanup(self.engine.dispose)
        self.prepare()


class DeliveriesTests(DeliveriesContract, SynchronousTestCase):
    """What waits for its routes."""

    def setUp(self) -> None:
        self.engine = open_postgresql(postgresql.new_database(self))
        self.addCleanup(self.engine.dispose)
        self.prepare()


class RoutesTests(RoutesContract, SynchronousTestCase):
    """Its routes."""

    def setUp(self) -> None:
        self.engine = open_postgresql(postgresql.new_database(self))
        self.addCleanup(self.engine.dispose)
        self.prepare()


class TemplatesTests(TemplatesContract, SynchronousTestCase):
    """Its templates."""

    def setUp(self) -> None:
        self.engine = open_postgresql(postgresql.new_database(self))
        self.addCleanup(self.engine.dispose)
        self.prepare()
