"""The relay as one service among others of a Twisted application: ``twistd -ny whole_relay.py``."""

from twisted.application.service import Application

from relay.config import load
from relay.service import makeService

config = load(
    {
        "listen": ["tcp:2525:interface=127.0.0.1"],
        "backend": "https://platform.example.com",
        "data": "/tmp/whole-relay",
    }
)
application = Application("my program")
makeService(config).setServiceParent(application)
