"""The revisions of the spool's tables."""

from relay.revisions import Revisions

REVISIONS = Revisions(__path__[0], "0001", "spool_version", "spool")
