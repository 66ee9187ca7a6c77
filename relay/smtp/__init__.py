"""The SMTP side: from the socket to an :class:`~relay.values.Envelope` and the message's bytes, and the reply back."""
