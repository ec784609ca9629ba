"""JSON over HTTP from one server that is not trusted: limits on place, time and size, and retries.

The standard library alone: no redirect is followed, no proxy variable is read, nothing is decompressed, no cookie kept.
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import os
import socket
import ssl
import time
from contextlib import closing
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, LineTooLong
from typing import Any, cast
from urllib.parse import urlsplit

from keeltune.utils.bounded_socket import BoundedReader, TooLarge, seconds_left
from keeltune.utils.errors import KeeltuneError, Problem, Stopped, UserError, visible
from keeltune.utils.server_address import KEY, plain_url, refused_address

HEADERS = 1 << 20

BODY = 1 << 28
"""Bytes of one answer, before and after its blank line."""

LONGEST_WAIT = 300.0
"""Seconds between two tries; a server that asks for more is left alone."""

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be another one at the next try."""


class _NoAnswer(Exception):
    """Nothing usable came, and another try may help; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Endpoint:
    """A server at `url` that is asked for JSON and answers with an object.

    url: http://host[:port][/path] or https; no user name, query or fragment. This machine's own addresses only, unless
        `allow_host` is the url's host. Link-local, metadata, multicast and unspecified addresses are always refused.
        The name is resolved once, and every connection goes to what was found then: it cannot be rebound.
    timeout: seconds for one try, from connecting to the last byte.
    retries: tries after the first, where the server is away, busy (429, 503) or broken (5xx), or its answer is cut off.
        The i-th wait is pause · 2^i seconds, at most 60, or what `Retry-After` asks if that is more; no randomness.

    The key, where the environment holds one under `KEY`, is sent as `Authorization: Bearer`. No message shows it:
    all that the server wrote passes through `quote`.

    Raises `Stopped` (75) once the retries are used up, `UserError` (2) for an answer that another try would not change.
    """

    def __init__(self, url: str, *, allow_host: str = "", timeout: float = 300.0, retries: int = 5, pause: float = 1.0):
        if timeout <= 0 or retries < 0 or pause < 0:
            raise ValueError(f"found timeout {timeout}, retries {retries}, pause {pause}, expected none negative")
        self.url = plain_url(url)
        parts = urlsplit(self.url)
        self.host = cast(str, parts.hostname)
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.secure = parts.scheme == "https"
        self.path = parts.path
        self.allow_host = allow_host
        self.timeout = timeout
        self.retries = retries
        self.pause = pause

    def ask(self, path: str, body: Any | None = None) -> dict[str, Any]:
        """The answer to a GET of url + `path`, or to a POST of `body` as JSON."""
        data = None if body is None else json.dumps(body).encode()
        waited, tries = 0.0, 0
        while True:
            tries += 1
            try:
                return self._parsed(self._once(path, data))
            except _NoAnswer as failure:
                wait = max(min(60.0, self.pause * 2 ** min(tries - 1, 16)), failure.wait)
                if tries > self.retries or wait > LONGEST_WAIT:
                    too_long = f"; it asks to wait {failure.wait:g} s" if failure.wait > LONGEST_WAIT else ""
                    raise Stopped(
                        f"{self.url}{path} gave no answer: {failure}{too_long} (tries: {tries}, {waited:g} s of "
                        "waiting). Nothing is lost: once the server answers again, the same command goes on from here"
                    ) from None
            time.sleep(wait)
            waited += wait

    def refusal(self, found: str, expected: str, fix: str) -> UserError:
        """A fault of the server's answer or of how it was asked; `found` has been through `quote`."""
        return UserError(Problem(self.url, "reference", found, expected, fix))

    def quote(self, value: Any) -> str:
        """What the server wrote, as a message may show it: without the key, cut, control characters made visible."""
        text = value if isinstance(value, str) else repr(value)
        key = _key()
        return visible(text.replace(key, "(the key)") if key else text, 240)

    @cached_property
    def _addresses(self) -> list[tuple[Any, ...]]:
        """What the host resolves to, every address of it allowed."""
        try:
            addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise _NoAnswer(f"the name {self.host} could not be resolved now") from None
            raise self.refusal(f"no address of {self.host}", "a host that resolves", "correct the address") from None
        for *_, address in addresses:
            if reason := refused_address(ipaddress.ip_address(address[0]), self.host, self.allow_host):
                raise self.refusal(*reason)
        return addresses

    def _connect(self, deadline: float) -> socket.socket:
        failure: OSError | None = None
        for family, kind, protocol, _, address in self._addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(seconds_left(deadline))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # header and body are two writes
                if self.secure:
                    return ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise cast(OSError, failure)

    def _once(self, path: str, data: bytes | None) -> bytes:
        """The body of one answer with status 200."""
        deadline = time.monotonic() + self.timeout
        headers = {"Host": urlsplit(self.url).netloc, "Accept": "application/json", "Connection": "close"}
        if key := _key():
            headers["Authorization"] = f"Bearer {key}"
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            with closing(self._connect(deadline)) as sock:
                sock.settimeout(seconds_left(deadline))
                sender = HTTPConnection(self.host, self.port)
                sender.sock = sock  # connected here, to the address that was checked
                sender.request("GET" if data is None else "POST", self.path + path, data, headers)
                reader = BoundedReader(sock, deadline, HEADERS)
                response = HTTPResponse(cast(socket.socket, reader))
                with closing(response):
                    response.begin()
                    self._judge(path, response)
                    reader.allowed = BODY
                    body = self._body(response)
        except KeeltuneError:  # a `UserError` is a `ValueError` too
            raise
        except TimeoutError:
            raise _NoAnswer(f"no whole answer within {self.timeout:g} s") from None
        except (TooLarge, LineTooLong):
            raise self._too_large(f"more than {HEADERS} bytes of header or {BODY} of body") from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, IncompleteRead):
            raise _NoAnswer("the answer was cut off") from None
        except ssl.SSLError as error:
            raise self.refusal(
                f"no secure connection: {error.reason or 'TLS failed'}",
                f"TLS with a valid certificate of {self.host}",
                "correct the address (http or https, port), or the server's certificate",
            ) from None
        except OSError as error:
            raise _NoAnswer(error.strerror or type(error).__name__) from None
        except (HTTPException, ValueError) as error:  # no status line, too many headers, bad chunks
            raise self.refusal(
                f"no HTTP: {type(error).__name__}, {self.quote(str(error))}",
                "an HTTP server",
                "correct the address: host, port, http or https",
            ) from None
        if response.status != 200:
            raise self.refusal(
                f"status {response.status} for {path}: {self.quote(_message(body))}",
                "status 200",
                "do what the server asks; where it has limits of its own, stay below them or raise them "
                "(vLLM: --max-logprobs at least k, --max-model-len at least the longest sequence and one more)",
            )
        return body

    def _judge(self, path: str, response: HTTPResponse) -> None:
        """Raises for a status whose body is not worth reading."""
        status = response.status
        if status in (401, 403):  # the body may hold the key that was sent
            sent = "was sent and not accepted" if _key() else "is not set"
            raise self.refusal(
                f"status {status} for {path}: {KEY} {sent}", "a key that the server accepts", f"set {KEY}"
            )
        if status in _PASSING:
            raise _NoAnswer(f"status {status}", _retry_after(response.getheader("Retry-After", "")))
        if 300 <= status < 400:
            try:
                target = urlsplit(response.getheader("Location", "")).hostname or self.host
            except ValueError:
                target = "a place that is no address"
            raise self.refusal(
                f"status {status} for {path}: a redirect to {self.quote(target)}",
                "an answer; no redirect is followed",
                "give the address at which the server itself answers, and trust that host first",
            )

    def _body(self, response: HTTPResponse) -> bytes:
        if (response.length or 0) > BODY:
            raise self._too_large(f"{response.length} bytes announced")
        parts = []
        while part := response.read(1 << 16):
            parts.append(part)
        if response.length:  # what Content-Length promised and did not come
            raise _NoAnswer("the answer was cut off")
        return b"".join(parts)

    def _too_large(self, found: str) -> UserError:
        return self.refusal(
            found, f"at most {HEADERS} bytes of header and {BODY} of body", "a smaller k or shorter sequences"
        )

    def _parsed(self, body: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self.refusal(
                f"{self.quote(body[:400].decode('utf-8', 'replace'))}",
                "a JSON object",
                "give the address below which the server answers /v1/models and /v1/completions",
            )
        return answer


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable() and " " not in key):  # http.client would show it in its own error
        raise UserError(
            Problem(KEY, "", "characters that no header can carry (not shown)", "visible ASCII", f"set {KEY} again")
        )
    return key


def _retry_after(text: str) -> float:
    """Seconds that a `Retry-After` asks for, as a number or a date; 0 where it says neither (RFC 9110, 10.2.3)."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _message(body: bytes) -> str:
    """What a server says of a fault: `error.message` or `message` of its JSON, else its text."""
    text = body[: 1 << 16].decode("utf-8", "replace")
    try:
        answer = json.loads(text)
        return str((answer.get("error") or answer)["message"])
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        return text
