"""Who may ask, and for what: pages of this server and programs, not pages of other sites that a browser has open."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

NAMES = ("127.0.0.1", "localhost")
READS = ("GET", "HEAD", "OPTIONS")
MOST_UPLOAD = 16 * 2**30  # bytes
SPARE = 2 * 2**30  # bytes that no upload takes from the disk


class OwnPagesOnly:
    """An ASGI middleware that refuses requests under another name, and writes that a page of another site sends.

    Under another name this server is asked where that name was pointed to 127.0.0.1 once its page was loaded (DNS
    rebinding), which makes that page one of the same origin. Programs send no Origin and are let in.

    Nor does it let Gradio fetch addresses for a visitor, or take files that are larger than `MOST_UPLOAD` or than the
    disk of `uploads` has room for; Gradio writes them before any of our code sees them.
    """

    def __init__(self, app: Any, uploads: Path) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer why not."""
        code, why = 0, ""
        if scope["type"] == "http":
            headers, method, path = Headers(scope=scope), scope.get("method", ""), scope.get("path", "")
            code, why = _refused(headers, method, path) or self._too_large(headers, method, path) or (0, "")
        if code:
            await PlainTextResponse(f"{why}\n", code)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _too_large(self, headers: Headers, method: str, path: str) -> tuple[int, str] | None:
        if method in READS or not path.rstrip("/").endswith("/upload"):
            return None
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return 411, "say how long the file is (Content-Length)"
        if int(length) > MOST_UPLOAD:
            return 413, f"at most {MOST_UPLOAD:,} bytes are taken"
        if shutil.disk_usage(self._uploads).free < int(length) + SPARE:
            return 507, "this server's disk has no room for it"
        return None


def _refused(headers: Headers, method: str, path: str) -> tuple[int, str] | None:
    """A status and why a request is refused; None where it is not."""
    host, origin = headers.get("host", ""), headers.get("origin")
    try:
        known = urlsplit(f"//{host}").hostname in NAMES
        own = origin is None or urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:  # no address at all
        known = own = False
    if not known:
        return 403, f"this server is asked as {' or '.join(NAMES)} only"
    if not own and method not in READS:
        return 403, "this server takes nothing from pages of other sites"
    named = unquote(path).lower()
    if "/proxy=" in named or any(f"/file={scheme}:" in named for scheme in ("http", "https", "ftp")):
        return 403, "this server fetches nothing from elsewhere"
    return None
