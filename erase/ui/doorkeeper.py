"""Who may ask: pages of this server and programs, not pages of other sites that a visitor's browser has open."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

NAMES = ("127.0.0.1", "localhost")
READS = ("GET", "HEAD", "OPTIONS")


class OwnPagesOnly:
    """An ASGI middleware that refuses requests under another name, and writes that a page of another site sends.

    Under another name this server is asked where that name was pointed to 127.0.0.1 once its page was loaded (DNS
    rebinding), which makes that page one of the same origin. Programs send no Origin and are let in.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with 403."""
        refused = _refused(Headers(scope=scope), scope.get("method", "")) if scope["type"] == "http" else ""
        if refused:
            await PlainTextResponse(refused, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _refused(headers: Headers, method: str) -> str:
    """Why a request is refused; "" where it is not."""
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        known = urlsplit(f"//{host}").hostname in NAMES
        own = origin is None or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # no address at all
        known = own = False
    if not known:
        return f"this server is asked as {' or '.join(NAMES)} only\n"
    if not own and method not in READS:
        return "this server takes nothing from pages of other sites\n"
    return ""
