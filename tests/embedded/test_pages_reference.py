"""The page of the HTTP API."""

from __future__ import annotations

from relay.embedded.api.operations import OPERATIONS
from tests.embedded.inmemory import BackendCase


class ReferenceTests(BackendCase):
    """``/reference``."""

    def test_operations(self) -> None:
        """Every operation is there with its path, its parameters and what it takes."""
        text = self.browser().get("/reference").text
        for operation in OPERATIONS:
            self.assertIn(f'id="{operation.name}"', text)
            self.assertIn(f"<code>/api/{operation.path}</code>", text)
            for parameter in operation.parameters:
                self.assertIn(f"<code>{parameter.name}</code>", text)
        self.assertIn("captured | queued", text)
        self.assertNotIn(self.backend.api_key, text)

    def test_linked(self) -> None:
        """The page of how to send leads there."""
        self.assertIn('href="/reference"', self.browser().get("/integrate").text)
