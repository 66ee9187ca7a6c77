"""Makes ``twistd smtp-relay`` known to twistd."""

from twisted.application.service import ServiceMaker

smtpRelay = ServiceMaker("SMTP relay", "relay.tap", "Takes mail by SMTP and posts it to an HTTP API", "smtp-relay")
