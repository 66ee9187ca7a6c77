"""Postal routes: what becomes of a message that the embedded backend has accepted."""
