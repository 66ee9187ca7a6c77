"""The revisions of the embedded backend's tables."""

from relay.revisions import Revisions

REVISIONS = Revisions(__path__[0], "0002", "platform_version", "embedded.database")
