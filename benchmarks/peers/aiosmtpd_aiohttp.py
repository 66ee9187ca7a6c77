"""The straight asyncio design: aiosmtpd, ``email``, and aiohttp with one session.

python benchmarks/peers/aiosmtpd_aiohttp.py PORT PLATFORM
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
from aiosmtpd.smtp import SMTP
from obvious import Refused, submissions


class Posting:
    """aiosmtpd's handler: posts each message while its client waits."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        try:
            key, wanted = submissions(envelope.content, envelope.mail_from, envelope.rcpt_tos)
        except Refused as refused:
            return f"{refused.code} {refused.text}"
        for each in wanted:
            try:
                async with self._http.post(self._url, json=each, headers={"X-Auth-APIKey": key}) as response:
                    await response.read()
            except aiohttp.ClientError:
                return "451 The platform cannot be reached"
            if response.status != 200:
                return "451 The platform did not take it"
        return "250 Ok"


async def main(port: int, platform: str) -> None:
    """Serve until SIGTERM."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as http:
        posting = Posting(f"{platform}/api/transactional/send", http)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(posting, hostname="localhost", data_size_limit=33_554_432), "127.0.0.1", port, backlog=1024
        )
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
