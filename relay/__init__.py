"""A transactional SMTP relay: SMTP in, one JSON POST per recipient out."""

__version__ = "0.1.0"
