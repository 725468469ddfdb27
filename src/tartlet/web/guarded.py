"""What every request has to pass and every answer says, against pages of other sites that know our port.

A browser lets any site send requests to 127.0.0.1, open WebSockets there (RFC 6455, 10.2), and have its own name point
there (DNS rebinding): the names in Host and Origin tell them apart from our page.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

_OWN_NAME = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII)
"""With any port: somebody may have forwarded one."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def only_from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests that are not for this machine by name, or that another site's page makes."""
    if not _OWN_NAME.fullmatch(request.host):
        raise web.HTTPMisdirectedRequest(text="This server answers as 127.0.0.1 and localhost only.\n")
    origin = request.headers.get("Origin")
    is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
    if origin != f"http://{request.host}" and (is_socket or origin is not None):
        raise web.HTTPForbidden(text="A page of another site has no business here.\n")
    return await handler(request)


async def with_rules(request: web.Request, response: web.StreamResponse) -> None:
    """Let the browser keep nothing, tell nobody, and load from here only. For `Application.on_response_prepare`."""
    response.headers.update(
        {
            "Cache-Control": "no-store",
            "Content-Security-Policy": _policy(request.host),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Server": "tart",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
    )


def _policy(host: str) -> str:
    sockets = f"ws://{host}" if _OWN_NAME.fullmatch(host) else ""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self' 'unsafe-inline'",  # xterm.js makes style sheets as it goes
            "img-src 'self' data:",  # noVNC's pictures and cursors
            f"connect-src 'self' {sockets}".rstrip(),  # not every browser counts WebSockets as 'self'
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
