"""What the platform could not take at once: kept durably, tried again, and never sent twice."""
