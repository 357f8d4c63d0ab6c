"""A proxy that stands before a real S3 server and makes it fail: errors, resets, cut bodies, refused credentials.

Requests pass unchanged, `Host` among their headers, so the server still checks the signature that the client made. What
happens to a request is a function of its number and method alone, so that a test can be run again.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = Callable[[int, str], str | None]
"""Number (from 0) and method of a request to what shall happen to it; None: nothing."""

ANSWERS = {
    "error": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "denied": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
}
BREAKS = ("reset", "lost", "reset_in_body", "cut")
"""No answer; done, but no answer; a reset or a plain end in the middle of the body."""

HEALING = ("error", "slow_down", *BREAKS)


def none(number: int, method: str) -> str | None:
    """Leave the server in peace."""
    return None


def at(number: int, kind: str) -> Fault:
    """One request fails."""
    return lambda here, method: kind if here == number else None


def at_rate(rate: float, seed: int, kinds: Sequence[str] = HEALING) -> Fault:
    """This share of the requests fails, each in one of these ways."""

    def fault(number: int, method: str) -> str | None:
        draw = random.Random(f"{seed} {number}")
        return draw.choice(kinds) if draw.random() < rate else None

    return fault


def always(kind: str, *, methods: Sequence[str] = ("GET", "HEAD", "PUT", "POST", "DELETE"), after: int = 0) -> Fault:
    """Every request of these methods fails, from the one of this number on."""
    return lambda number, method: kind if number >= after and method in methods else None


class FaultProxy:
    """Where the proxy listens, what it shall do (`fault`, which may be set anew), and what it has done."""

    def __init__(self, upstream: str, fault: Fault, *, conditional: bool = False) -> None:
        self.conditional = conditional
        self.written: set[str] = set()
        self.creating = threading.Lock()
        self.upstream = urlsplit(upstream).netloc
        self.endpoint = ""
        self.injected: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.reset(fault)

    def reset(self, fault: Fault) -> None:
        """Count from 0 again, with other faults."""
        with self._lock:
            self.fault, self.requests = fault, 0
            self.injected.clear()

    def next(self, method: str) -> str | None:
        """What shall happen to the request that has just come."""
        with self._lock:
            kind = self.fault(self.requests, method)
            self.requests += 1
            if kind is not None:
                self.injected[kind] += 1
            return kind


@contextlib.contextmanager
def serve_faults(upstream: str, fault: Fault = none, *, conditional: bool = False) -> Iterator[FaultProxy]:
    """Run the proxy before the server at this address until the block ends.

    Args:
        upstream: the server's address.
        fault: what happens to requests.
        conditional: honour `If-None-Match: *` in PUTs, for keys that were written through here; the server does not.
    """
    proxy = FaultProxy(upstream, fault, conditional=conditional)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def shutdown_request(self, request) -> None:
        """Close without the FIN that `shutdown` would send: a reset must be a reset."""
        self.close_request(request)

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.proxy.next(self.command)
        if kind in ANSWERS:
            status, code = ANSWERS[kind]
            error = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made to fail</Message></Error>".encode()
            self._answer(status, [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else error)
        elif kind == "reset":
            self._hang_up(reset=True)
        elif self.proxy.conditional and self.command in ("PUT", "DELETE"):
            self._change(body, kind)
        else:
            self._pass_on(body, kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _change(self, body: bytes, kind: str | None) -> None:
        """A PUT or DELETE, one at a time: who creates what is there already is told so."""
        path = self.path.partition("?")[0]
        with self.proxy.creating:
            if self.headers.get("If-None-Match") == "*" and path in self.proxy.written:
                error = b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code></Error>"
                self._answer(412, [("Content-Type", "application/xml")], error)
                return
            (self.proxy.written.add if self.command == "PUT" else self.proxy.written.discard)(path)
            self._pass_on(body, kind)

    def _pass_on(self, body: bytes, kind: str | None) -> None:
        with contextlib.closing(http.client.HTTPConnection(self.proxy.upstream, timeout=30)) as upstream:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
        if self.command == "HEAD":
            headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        half = data[: len(data) // 2]
        if kind == "lost" or (kind in BREAKS and not data):
            self._hang_up(reset=True)
        elif kind in BREAKS:
            self._answer(answer.status, headers, half, announced=len(data))
            self._hang_up(reset=kind == "reset_in_body")
        else:
            self._answer(answer.status, headers, half if kind == "short" else data)

    def _answer(
        self, status: int, headers: Sequence[tuple[str, str]], body: bytes, announced: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


_HOP = {"content-length", "transfer-encoding", "connection", "date", "server"}
