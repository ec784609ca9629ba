"""A page of this machine for its user alone: a server on 127.0.0.1 that answers a few names below a secret.

    http://127.0.0.1:PORT/TOKEN/NAME

The token is 256 random bits, new each time, compared in constant time: other users of the machine, who can connect too,
find nothing. A request whose `Host` is not this machine's name is refused: a page of another site cannot read an answer
by having its own name resolve to 127.0.0.1 (DNS rebinding). Names are looked up in a table, and are no paths.
"""

from __future__ import annotations

import re
import secrets
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from keeltune.utils.errors import Problem, UserError
from keeltune.utils.terminal import Terminal

HERE = "127.0.0.1"

HOST = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.IGNORECASE)
"""What a browser calls this machine; another port is that of a forwarded one (ssh -L)."""

AT_ONCE = 32
"""Connections that are answered at once; more are closed."""

PATIENCE = 10.0
"""Seconds for which a connection may say nothing."""

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What every answer says: it is kept nowhere, shown in no other site's frame, and its address is told to nobody."""

NOTHING = "default-src 'none'; frame-ancestors 'none'"


class Answer(NamedTuple):
    """What a name is answered with; `policy`: its Content-Security-Policy, beside which nothing may be loaded."""

    kind: str
    body: bytes
    policy: str = NOTHING


Page = Callable[[Mapping[str, str]], Answer | None]
"""From the query's values, as they stand in the address, to an answer; None where there is none now."""


class LocalServer(ThreadingHTTPServer):
    """Answers `pages` by their names, "" being the address itself. `port`: 0 takes one that is free.

    Raises: UserError: the port is taken, or may not be.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = AT_ONCE

    def __init__(self, pages: Mapping[str, Page], port: int = 0):
        self.pages, self.token = dict(pages), secrets.token_urlsafe(32)
        self.free = threading.Semaphore(AT_ONCE)
        try:
            super().__init__((HERE, port), _Handler)
        except (OSError, OverflowError) as error:
            found = getattr(error, "strerror", None) or str(error)
            problem = Problem("the call", "--port", f"{port}: {found}", "a free port", "name another, or none for any")
            raise UserError(problem) from error

    @property
    def url(self) -> str:
        """The address of the page, with its secret."""
        return f"http://{HERE}:{self.server_address[1]}/{self.token}/"

    def server_bind(self) -> None:
        """Without the look-up of a name for 127.0.0.1, which may ask another machine."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HERE, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, where not too many are at work."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The request's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that its other end has left is none; anything else is a fault of ours, told and survived."""
        if not isinstance(error := sys.exception(), OSError):
            Terminal(stderr=True).print(f"warning: no answer, by a bug of keeltune: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    timeout = PATIENCE
    server_version, sys_version = "keeltune", ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not HOST.fullmatch(hosts[0].strip()):
            return self.send_error(403)
        path, _, asked = self.path.partition("?")
        parts = path.split("/", 2)  # "", the token, the name
        token = parts[1] if len(parts) == 3 and not parts[0] else ""
        ours = compare_digest(token.encode("utf-8", "surrogateescape"), self.server.token.encode())
        page = self.server.pages.get(parts[2]) if ours else None
        if page is None:
            return self.send_error(404)
        query = dict(pair.partition("=")[::2] for pair in asked.split("&")[:8])
        try:
            answer = page(query)
        except Exception:
            self.send_error(500)
            raise
        return self.send_error(404) if answer is None else self._send(200, answer)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A status without a word of the request in it."""
        self._send(code, Answer("text/plain;charset=utf-8", f"{int(code)}\n".encode()))

    def _send(self, status: int, answer: Answer) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Content-Security-Policy", answer.policy)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(answer.body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are nobody's news, and their addresses hold the token."""
