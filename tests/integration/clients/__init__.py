"""Real mail clients: what they are given, how they are run, and what they put on the wire."""
