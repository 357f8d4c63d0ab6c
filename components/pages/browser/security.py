"""What keeps other pages out: the browser of a page elsewhere can reach loopback, but it says whose page it is.

DNS rebinding makes another site's name point to loopback: the Host header still has that name, so it must be ours.
A form or script of another site sends its own Origin: what changes anything must come with ours.
"""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

_HOSTS = frozenset(["127.0.0.1", "localhost", "[::1]"])
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Of every answer: nothing is loaded from elsewhere, nothing inline runs, nobody frames it."""


async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse requests under another name, and changes that another page asks for; mark every answer."""
    response = _refusal(request) or await answer(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _refusal(request: Request) -> Response | None:
    host = request.headers.get("host", "")
    if _name(host) not in _HOSTS:
        return PlainTextResponse("this page answers to 127.0.0.1 and localhost alone", 421)
    if request.method not in ("GET", "HEAD") and request.headers.get("origin") != f"http://{host}":
        return PlainTextResponse("changes are taken from this page alone", 403)
    return None


def _name(host: str) -> str:
    """A Host header without its port."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).lower()
