"""A page of this machine is its user's alone: no token, no answer; no other host, no path, no word of the request."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from keeltune.utils import local_server
from keeltune.utils.errors import UserError
from keeltune.utils.local_server import AT_ONCE, HEADERS, Answer, LocalServer


@contextmanager
def served(**pages) -> Iterator[LocalServer]:
    told = {"": lambda query: Answer("text/html", b"home"), **pages}
    server = LocalServer(told)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def raw(server: LocalServer, request: str) -> str:
    """What the server says to these bytes, to the last one."""
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(request.encode("latin-1"))
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts).decode("latin-1")


def ask(server: LocalServer, path: str, method: str = "GET", host: str | None = "127.0.0.1") -> tuple[int, str, str]:
    """(status, headers, body)"""
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), "", ""]
    head, _, body = raw(server, "\r\n".join(lines)).partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def test_the_page_is_there_for_who_has_the_token():
    with served() as server:
        token = server.token
        assert server.url == f"http://127.0.0.1:{server.server_address[1]}/{token}/"
        assert len(token) >= 43  # 32 bytes
        assert ask(server, f"/{token}/")[::2] == (200, "home")
        assert ask(server, f"/{token}/?seen=1")[0] == 200
        assert ask(server, f"/{token}/", "HEAD")[::2] == (200, "")
        for path in ("/", "", f"/{token}", f"/{token[:-1]}/", f"/{token}x/", f"/{token.swapcase()}/", "//", "/\xe9/"):
            assert ask(server, path or "/")[0] == 404, path
    with served() as another:
        assert another.token != token


def test_a_token_is_compared_in_constant_time(monkeypatch):
    compared = []
    whole = local_server.compare_digest
    monkeypatch.setattr(local_server, "compare_digest", lambda a, b: compared.append((a, b)) or whole(a, b))
    with served() as server:
        assert ask(server, "/guess/")[0] == 404
        assert compared == [(b"guess", server.token.encode())]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "LocalHost:1"])
def test_this_machine_may_be_called_by_its_names(host):
    with served() as server:
        assert ask(server, f"/{server.token}/", host=host)[0] == 200  # another port is one that ssh -L forwards


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "evil.example@127.0.0.1", "", None,
     "127.0.0.1:80:80", "[::1]", "0.0.0.0", "127.0.0.1\r\nHost: evil.example", "10.0.0.1"],
)  # fmt: skip
def test_another_sites_name_for_this_machine_is_refused(host):
    """DNS rebinding: the browser sends the name of the site whose page asks."""
    with served() as server:
        status, _, body = ask(server, f"/{server.token}/", host=host)
        assert status == 403
        assert body == "403\n"


@pytest.mark.parametrize(
    "path",
    ["../etc/passwd", "../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "..%2fetc/passwd", "/etc/passwd", "state.json/",
     "./", "state.json/../", "%00", "log.jsonl", "recipe.yaml", "state.json%20", "STATE.JSON", "\\..\\x"],
)  # fmt: skip
def test_names_are_no_paths(path):
    with served(**{"state.json": lambda query: Answer("application/json", b"{}")}) as server:
        assert ask(server, f"/{server.token}/state.json")[0] == 200
        status, _, body = ask(server, f"/{server.token}/{path}")
        assert status == 404
        assert body == "404\n"
        assert ask(server, f"http://127.0.0.1/{server.token}/state.json")[0] == 404  # as a proxy is asked


def test_every_answer_keeps_to_itself():
    def broken(query):
        raise KeyError("a secret of the run")

    with served(broken=broken, gone=lambda query: None) as server:
        for path, method, expected in (
            ("", "GET", 200), ("none", "GET", 404), ("gone", "GET", 404), ("broken", "GET", 500), ("", "POST", 501),
            ("", "OPTIONS", 501), ("", "PUT", 501),
        ):  # fmt: skip
            status, head, body = ask(server, f"/{server.token}/{path}", method)
            assert status == expected, (path, method)
            for name, value in HEADERS.items():
                assert f"{name}: {value}" in head
            assert "Content-Security-Policy: default-src 'none'" in head
            assert "Access-Control-Allow-Origin" not in head
            assert "Python" not in head
            assert "secret" not in head + body
            assert server.token not in head + body
        assert ask(server, f"/{server.token}/")[0] == 200  # it goes on


def test_a_fault_of_a_page_is_told_and_survived(capsys):
    with served(broken=lambda query: 1 / 0) as server:
        assert ask(server, f"/{server.token}/broken")[0] == 500
    assert "a bug of keeltune: ZeroDivisionError" in capsys.readouterr().err


def test_it_listens_on_127_0_0_1_alone():
    with served() as server:
        assert server.server_address[0] == "127.0.0.1"
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.2", server.server_address[1]), timeout=2),
        ):
            pass


def test_a_query_is_handed_on_as_it_stands():
    heard = []

    def page(query):
        heard.append(dict(query))
        return Answer("text/plain", b"")

    with served(page=page) as server:
        for asked in ("seen=a-b", "seen", "=", "&&", "a=1&seen=%3Cb%3E&seen=2", "&".join(["x=1"] * 5000)):
            assert ask(server, f"/{server.token}/page?{asked}")[0] == 200
    assert heard[0] == {"seen": "a-b"}
    assert heard[4]["seen"] == "2"


def test_many_ask_at_once():
    lock, inside = threading.Lock(), []

    def slow(query):
        with lock:
            inside.append(1)
        time.sleep(0.05)
        return Answer("text/plain", b"x" * 100_000)

    with served(slow=slow) as server, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(server, f"/{server.token}/slow"), range(48)))
        assert all(status == 200 and len(body) == 100_000 for status, _, body in answers)
        assert len(inside) == 48


def test_who_only_connects_keeps_nobody_out_for_long(monkeypatch):
    monkeypatch.setattr(local_server._Handler, "timeout", 0.5)
    with served() as server:
        silent = [socket.create_connection(server.server_address) for _ in range(AT_ONCE + 8)]
        deadline = time.monotonic() + 20
        while True:
            try:
                if ask(server, f"/{server.token}/")[0] == 200:
                    break
            except (OSError, IndexError):  # closed, as too many are at work
                assert time.monotonic() < deadline
                time.sleep(0.1)
        for connection in silent:
            connection.close()
        raw(server, "no http at all\r\n\r\n")
        raw(server, f"GET /{'a' * 70_000} HTTP/1.1\r\n\r\n")
        assert ask(server, f"/{server.token}/")[0] == 200


def test_a_port_that_is_taken_is_a_fault_of_the_call():
    with served() as server, pytest.raises(UserError, match="--port") as refused:
        LocalServer({}, server.server_address[1])
    assert refused.value.exit_status == 2
