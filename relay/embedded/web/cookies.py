"""The cookies of the pages: signed, never readable to script, and bound to this backend."""

from __future__ import annotations

import hashlib
import hmac

from itsdangerous import BadSignature, Signer
from itsdangerous.encoding import base64_decode, base64_encode
from twisted.web.server import Request


class Cookies:
    """Writes and reads cookies, and the tokens of forms.

    Browsers do not keep the cookies of two ports apart: so their names tell which backend they are of.

    :param secret: what they are signed with.
    :param secure: whether people reach the pages by https; then browsers send them by https alone.
    """

    def __init__(self, secret: bytes, *, secure: bool) -> None:
        self._secret = secret
        self._secure = secure
        self._mark = hashlib.sha256(b"name" + secret).hexdigest()[:8]

    def read(self, request: Request, name: str) -> str:
        """What the cookie holds, ``""`` where it is missing or not of ours."""
        given = request.getCookie(self._name(request, name).encode()) or b""
        try:
            return base64_decode(self._signer(name).unsign(given)).decode()
        except (BadSignature, ValueError):
            return ""

    def write(self, request: Request, name: str, value: str, age: float | None = None) -> tuple[str, str]:
        """The header that sets the cookie.

        :param age: seconds that the browser keeps it; None is until it is closed.
        """
        signed = self._signer(name).sign(base64_encode(value)).decode()
        return self._header(request, name, signed, age)

    def drop(self, request: Request, name: str) -> tuple[str, str]:
        """The header that deletes the cookie."""
        return self._header(request, name, "", 0)

    def token(self, held: str) -> str:
        """What a form has to hold that is sent by who has a cookie which holds *held*."""
        return hmac.new(self._secret, b"form" + held.encode(), "sha256").hexdigest()

    def _signer(self, name: str) -> Signer:
        return Signer(self._secret, salt=name.encode(), digest_method=hashlib.sha256)

    def _is_secure(self, request: Request) -> bool:
        return self._secure or bool(request.isSecure())

    def _name(self, request: Request, name: str) -> str:
        return f"{'__Host-' if self._is_secure(request) else ''}relay-{self._mark}-{name}"

    def _header(self, request: Request, name: str, value: str, age: float | None) -> tuple[str, str]:
        words = [f"{self._name(request, name)}={value}", "Path=/", "HttpOnly", "SameSite=Lax"]
        words += ["Secure"] if self._is_secure(request) else []
        words += [f"Max-Age={int(age)}"] if age is not None else []
        return "Set-Cookie", "; ".join(words)
