"""A teacher behind a real HTTP server: its values are the model's own, and nothing that a server does gets through."""

from __future__ import annotations

import itertools
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from keeltune.objective import prompt_logprobs
from keeltune.objective.references import served
from keeltune.objective.references.served import Served
from keeltune.utils import http_client
from keeltune.utils.errors import KeeltuneError, StateRefused, Stopped, UserError
from keeltune.utils.http_client import Endpoint
from tests.helpers import served_teacher
from tests.helpers.served_teacher import GRANTED, NAME, VOCABULARY

SECRET = "sk-canary-3f9d27"
TEXTS = [
    [5, 139_999, 131_072, 7, 131_073],
    [100_000],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    [139_998, 139_998],
    list(range(3, 40)),
]


@pytest.fixture(scope="module")
def port():
    """Of a server process of its own."""
    with served_teacher.serving() as (number, _):
        yield number


@pytest.fixture(scope="module")
def model():
    return served_teacher.teacher()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(http_client.KEY, SECRET)


@pytest.fixture
def waits(monkeypatch):
    """The pauses that were made, each taking no time."""
    made: list[float] = []
    monkeypatch.setattr(http_client.time, "sleep", made.append)
    return made


@pytest.fixture
def client(port):
    names = itertools.count()

    def make(fault: str, k: int = 5, model: str = NAME, **options) -> Served:
        options = {"vocabulary": VOCABULARY, "timeout": 20.0, "pause": 0.0, **options}
        connection = {
            name: options.pop(name) for name in ("timeout", "pause", "retries", "allow_host") & options.keys()
        }
        url = f"http://127.0.0.1:{port}/{fault}/{next(names)}-{time.monotonic_ns()}"
        return Served(Endpoint(url, **connection), model, k, **options)

    return make


def refused(kind: type[KeeltuneError], status: int, needle: str, call) -> KeeltuneError:
    """`call` raises exactly `kind`, says `needle` and does not show the key."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    assert type(error) is kind
    assert error.exit_status == status
    assert re.search(needle, str(error)), str(error)
    everything = "".join(traceback.format_exception(error)) + repr(error)
    assert SECRET not in everything
    assert "\x1b" not in everything
    return error


# What it gives


def test_the_values_are_the_models_own(client, model):
    answers = client("ok").top(TEXTS)
    assert [ids.shape for ids, _ in answers] == [(len(text) - 1, 5) for text in TEXTS]
    for text, (ids, log_probs) in zip(TEXTS, answers, strict=True):
        assert ids.dtype == np.int64 and log_probs.dtype == np.float32
        for t in range(len(text) - 1):
            with torch.no_grad():  # the ids before it alone: nothing shifted, nothing from what follows
                expected = model(torch.tensor([text[: t + 1]])).logits[0, -1].double().log_softmax(-1)
            values, top = expected.topk(5)
            assert ids[t].tolist() == top.tolist()
            # the sums over V are float64's on both sides; left are the logits, |z| ≤ 30, each of some roundings of 2⁻²⁰
            np.testing.assert_allclose(log_probs[t], values.numpy(), rtol=0, atol=1e-5)
    assert max(ids.max() for ids, _ in answers if ids.size) > 2**17


def test_the_standing_token_is_among_the_answers_and_is_dropped(client, model):
    text = TEXTS[2]
    raw = served_teacher.prompt_logprobs(model, text, 1)
    assert sum(len(position) == 2 for position in raw[1:]) > 5
    ((ids, log_probs),) = client("ok", k=1).top([text])
    best = [max(position, key=lambda name: position[name]["logprob"]) for position in raw[1:]]
    assert ids[:, 0].tolist() == [int(name) for name in best]
    assert (log_probs < 0).all()


def test_a_server_that_sends_the_k_likeliest_alone_will_do(client):
    for ours, theirs in zip(client("ok").top(TEXTS), client("lean").top(TEXTS), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_many_sequences_go_in_few_requests_and_come_back_in_order(client, monkeypatch):
    texts = [[i, i + 1, i + 2] for i in range(40)]
    teacher = client("ok")
    answers = teacher.top(texts)
    assert teacher.endpoint.ask("/sizes")["sizes"] == [1, 16, 16, 8]  # the probe, then the texts
    monkeypatch.setattr(served, "ENTRIES", 5 * 3 * 2)
    teacher = client("ok")
    for text, ours, one in zip(texts, answers, teacher.top(texts), strict=True):
        np.testing.assert_array_equal(ours[0], one[0], err_msg=str(text))
        np.testing.assert_allclose(ours[1], one[1], rtol=0, atol=1e-6)
    assert teacher.endpoint.ask("/sizes")["sizes"] == [1] + [2] * 20
    monkeypatch.setattr(served, "ENTRIES", 1)
    assert len(client("ok").top(texts[:2])) == 2


def test_no_proxy_variable_is_read(client, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert client("ok", retries=0).top([[1, 2]])


# The same teacher all along


def test_the_identity_is_the_teachers_and_not_the_requests(client, monkeypatch):
    first, other_k = client("ok").identity(), client("ok", k=1).identity()
    assert first == other_k == client("lean").identity()
    assert first["model"] == NAME and len(first["probe"]) == 64
    assert client("wavering").identity() == first
    replaced = client("replaced")
    assert replaced.identity() == first
    for _ in range(3):
        replaced.top([[1, 2]])
    again = Served(Endpoint(replaced.endpoint.url), NAME, 5)
    assert again.identity()["probe"] != first["probe"]


def test_a_teacher_that_changes_is_refused(client, monkeypatch):
    monkeypatch.setattr(served, "PROBE_EVERY", 3)
    teacher = client("replaced")
    for _ in range(2):
        teacher.top([[1, 2]])
    error = refused(StateRefused, 3, "answers the probe", lambda: teacher.top([[1, 2]]))
    assert teacher.identity()["probe"][:12] in str(error)
    refused(StateRefused, 3, "answers the probe", teacher.verify)


def test_a_teacher_that_wavers_once_is_not(client):
    teacher = client("wavering")
    for _ in range(2):
        teacher.top([[1, 2]])
    teacher.verify()
    assert teacher.endpoint.ask("/sizes")["sizes"] == [1] * 5  # probe, two requests, a probe that differed, one more


# Trouble that may pass


@pytest.mark.parametrize(("fault", "expected"), [("busy", [0.5, 1.0]), ("patient", [3.0, 3.0]), ("flaky", [0.5, 1.0])])
def test_trouble_that_passes_is_waited_for(client, waits, fault, expected):
    ((ids, _),) = client(fault, pause=0.5).top([TEXTS[0]])
    assert waits == expected
    np.testing.assert_array_equal(ids, client("ok").top([TEXTS[0]])[0][0])


@pytest.mark.parametrize(
    ("fault", "needle"),
    [
        ("broken", "status 500"),
        ("cut", "cut off"),
        ("cut-chunk", "cut off"),
        ("silent", "within 0.25 s"),
        ("drip", "within 0.25 s"),
        ("drip-header", "within 0.25 s"),
    ],
)
def test_trouble_that_stays_stops_the_work_and_loses_nothing(client, waits, fault, needle):
    tries = 2 if "0.25" in needle else 8
    teacher = client(fault, retries=tries - 1, pause=1.0, timeout=0.25 if tries == 2 else 20)
    began = time.monotonic()
    error = refused(Stopped, 75, needle, lambda: teacher.top([[1, 2]]))
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0][: tries - 1]
    assert f"tries: {tries}" in str(error) and "goes on from here" in str(error)
    assert time.monotonic() - began < 10  # on a busy machine; alone it is half a second


def test_a_server_that_is_not_there(waits):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    refused(Stopped, 75, "Connection refused", lambda: Served(Endpoint(url, retries=2), NAME, 5).identity())
    assert waits == [1.0, 2.0]


def test_a_server_that_asks_for_a_day_is_left_alone(client, waits):
    refused(Stopped, 75, "asks to wait 86400 s", client("long-busy").identity)
    assert waits == []


def test_retry_after_is_seconds_or_a_date():
    assert http_client._retry_after(" 17 ") == 17
    assert 50 < http_client._retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    for text in ("", "soon", "-5", "1.5", "²", formatdate(time.time() - 60), "Fri, 32 Foo 99999"):
        assert http_client._retry_after(text) == 0, text


# Answers that another try would not mend


@pytest.mark.parametrize(
    ("fault", "needle"),
    [
        ("unauthorized", "status 401 .*was sent and not accepted"),
        ("forbidden", "status 403"),
        ("gone", "status 404"),
        ("moved", "redirect to .?elsewhere.example"),
        ("kept", "redirect to .?elsewhere.example"),
        ("html", "<!doctype html>"),
        ("garbled", "expected: a JSON object"),
        ("deep", "expected: a JSON object"),
        ("array", "expected: a JSON object"),
        ("bytes", "expected: a JSON object"),
        ("ssh", "no HTTP"),
        ("chunks", "no HTTP"),
        ("header", "bytes of header"),
        ("headers", "bytes of header"),
        ("promised", "2147483648 bytes announced"),
        ("endless", "bytes of header"),
        ("unlisted", 'no model "teacher"'),
        ("mumbling", 'no model "teacher"'),
        ("echoing", r'no model "teacher".*did you mean.*tercher[\s\S]*\(the key\)'),
        ("empty", "no list of choices"),
        ("bare", "no `prompt_logprobs`"),
        ("choiceless", "0 choices"),
        ("twice", "2 choices"),
        ("short", "16 positions for 17 ids"),
        ("long", "18 positions for 17 ids"),
        ("unshifted", "the first not null"),
        ("few", "3 tokens at position 16"),
        ("renamed", '"-7" as a token'),
        ("padded", '"07" as a token'),
        ("beyond", f"an id below {VOCABULARY}"),
        ("positive", "0.25.* a log-probability ≤ 0|0.25[\\s\\S]*a log-probability ≤ 0"),
        ("nan", "nan"),
        ("infinite", "inf"),
        ("huge", "a log-probability ≤ 0"),
        ("worded", "-1.0"),
        ("absent", "None"),
        ("heavy", "probabilities of [56]"),
        ("unranked", "rising ranks"),
        ("holed", "rising ranks, and the 5 likeliest tokens complete"),
        ("other", "but not the one that stands there"),
        ("flat", "no tokens at position 16"),
    ],
)
def test_a_wrong_answer_is_refused_at_once(client, waits, monkeypatch, fault, needle):
    monkeypatch.setattr(http_client, "BODY", 1 << 22)
    refused(UserError, 2, needle, lambda: client(fault, retries=1, timeout=10.0).top([TEXTS[0]]))
    assert waits == []


def test_more_tokens_than_the_server_grants(client):
    error = refused(UserError, 2, f"greater than max allowed: {GRANTED}", client("ok", k=GRANTED + 1).identity)
    assert "(the key)" in str(error) and "--max-logprobs" in str(error)
    assert client("ok", k=GRANTED).identity()


def test_another_model_name(client):
    refused(UserError, 2, 'no model "teachers".*did you mean.*teacher', client("ok", model="teachers").identity)


@pytest.mark.parametrize("text", [[], [-1, 2], [1, VOCABULARY]])
def test_ids_that_are_not_the_teachers_are_not_sent(client, text):
    teacher = client("ok")
    refused(UserError, 2, "sequence 1", lambda: teacher.top([[1, 2], text]))
    assert teacher.endpoint.ask("/sizes")["sizes"] == []


def test_k_is_at_least_one_and_at_most_the_vocabulary(client):
    for k in (0, VOCABULARY + 1):
        refused(UserError, 2, f"k = {k}", lambda k=k: client("ok", k=k))


# The key


def test_without_a_key_none_is_sent(client, monkeypatch):
    monkeypatch.delenv(http_client.KEY)
    refused(UserError, 2, f"{http_client.KEY} is not set", client("unauthorized").identity)
    refused(UserError, 2, "no key", client("echoing").identity)


@pytest.mark.parametrize("found", [f"{SECRET}\r\nX: y", f"{SECRET} x", f"{SECRET}ü"])
def test_a_key_that_no_header_can_carry(client, monkeypatch, found):
    monkeypatch.setenv(http_client.KEY, found)
    refused(UserError, 2, "not shown", client("ok").identity)


def test_the_end_of_a_line_is_no_part_of_a_key(client, monkeypatch):
    monkeypatch.setenv(http_client.KEY, f"{SECRET}\n")
    refused(UserError, 2, r"\(the key\)", client("echoing").identity)
    assert SECRET not in repr(vars(client("ok"))) + repr(vars(client("ok").endpoint))


# Where it connects to


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1:8000",
        f"http://{SECRET}@127.0.0.1:8000",
        f"http://127.0.0.1:8000?key={SECRET}",
        "http://127.0.0.1:8000#part",
        "ftp://127.0.0.1",
        "file:///etc/hosts",
        "127.0.0.1:8000",
        "http://",
        "http://[::1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1 .example",
        "http://127.0.0.1\r\nX: y",
        "http://exämple",
        "",
    ],
)
def test_an_address_that_is_none(url):
    refused(UserError, 2, "expected: http://host:port", lambda: Endpoint(url))


def test_an_address_may_end_as_openai_clients_write_it(client):
    teacher = client("ok")
    assert Endpoint(teacher.endpoint.url + "/v1/").ask("/v1/models") == teacher.endpoint.ask("/v1/models")


def resolver(monkeypatch, *answers: str) -> list[str]:
    """A name server that gives `answers` in turn; returns what it was asked."""
    asked: list[str] = []

    def resolve(host, port, *, type):
        address = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, type, 6, "", (address, port))]

    monkeypatch.setattr(http_client.socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize("address", ["10.0.0.5", "8.8.8.8", "2001:4860:4860::8888", "::ffff:10.0.0.5"])
def test_another_machine_must_be_allowed_by_name(monkeypatch, waits, address):
    resolver(monkeypatch, address)
    refused(UserError, 2, "another machine", lambda: Endpoint("http://gpu.example:8000").ask("/v1/models"))
    refused(
        UserError, 2, "another mach", lambda: Endpoint("http://gpu.example", allow_host="example").ask("/v1/models")
    )
    connected = []

    def connect(sock, target):
        connected.append(target[0])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket.socket, "connect", connect)
    allowed = Endpoint("http://GPU.example:8000", allow_host="gpu.Example", retries=0)
    refused(Stopped, 75, "refused", lambda: allowed.ask("/v1/models"))
    assert connected == [address]


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "::ffff:169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "0.0.0.0",
        "::",
        "224.0.0.1",
    ],
)
def test_some_addresses_are_never_connected_to(monkeypatch, address):
    resolver(monkeypatch, address)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    teacher = Endpoint("http://gpu.example:8000", allow_host="gpu.example")
    refused(UserError, 2, "link-local, metadata", lambda: teacher.ask("/v1/models"))


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.254.43518"])
def test_an_address_in_other_clothes_is_still_that_address(host):
    teacher = Endpoint(f"http://{host}:80", allow_host=host)
    refused(UserError, 2, "169.254.169.254", lambda: teacher.ask("/v1/models"))


def test_a_name_is_resolved_once(client, port, monkeypatch):
    asked = resolver(monkeypatch, "127.0.0.1", "169.254.169.254")
    teacher = Served(Endpoint(f"http://teacher.example:{port}/ok/rebound"), NAME, 5)
    teacher.top([[1, 2]])
    teacher.top([[1, 2]])
    assert asked == ["teacher.example"]


def test_a_name_that_does_not_resolve(monkeypatch, waits):
    errors = [socket.gaierror(socket.EAI_AGAIN, "later"), socket.gaierror(socket.EAI_NONAME, "none")]

    def resolve(*_, **__):
        raise errors[0]

    monkeypatch.setattr(http_client.socket, "getaddrinfo", resolve)
    teacher = Endpoint("http://gpu.example", retries=1)
    refused(Stopped, 75, "could not be resolved", lambda: teacher.ask("/v1/models"))
    errors.pop(0)
    refused(UserError, 2, "no address of gpu.example", lambda: teacher.ask("/v1/models"))


# TLS


class Plain(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"host": "%s"}' % self.headers["Host"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def secure(tmp_path, monkeypatch):
    """The port of a server with a certificate for teacher.example, which this process trusts."""
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command, to make a certificate")
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=teacher.example -addext"
    names = ["subjectAltName=DNS:teacher.example", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *command.split(), *names], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = HTTPServer(("127.0.0.1", 0), Plain)
    server.handle_error = lambda *_: None  # a client that does not trust it hangs up
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_certificate_is_checked_against_the_name(secure, monkeypatch, port):
    resolver(monkeypatch, "127.0.0.1")
    host = f"teacher.example:{secure}"
    assert Endpoint(f"https://{host}").ask("/v1/models") == {"host": host}
    other = Endpoint(f"https://other.example:{secure}")
    refused(UserError, 2, "no secure connection", lambda: other.ask("/v1/models"))
    monkeypatch.delenv("SSL_CERT_FILE")
    refused(UserError, 2, "no secure connection", lambda: Endpoint(f"https://{host}").ask("/v1/models"))
    refused(UserError, 2, "no secure connection", lambda: Endpoint(f"https://127.0.0.1:{port}").ask("/v1/models"))


def test_a_server_that_writes_its_tokens_otherwise_has_another_tokenizer(client):
    """As many ids, other words: the same ids mean something else, and only the server's own spelling shows it."""
    alike = client("ok", spell=lambda i: f" <{i}>")
    for ours, theirs in zip(alike.top(TEXTS), client("ok").top(TEXTS), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
    error = refused(
        UserError, 2, "tokens that are written otherwise", lambda: client("ok", spell=lambda i: f"<{i + 1}>").top(TEXTS)
    )
    assert "the student's tokenizer" in str(error)
    client("ok", spell=lambda i: f"<{i + (i % 15 == 0)}>").top(TEXTS)  # a few special tokens may differ
    client("lean", spell=lambda i: "x").top(TEXTS)  # a server that does not say how it writes them


@pytest.mark.parametrize(("shown", "bare"), [("Ġthe", "the"), ("▁the", "the"), (" the", "the"), ("##ing", "ing"),
                                             ("\ufffd", ""), ("Ä", ""), (None, ""), (7, ""), ("\n", "")])  # fmt: skip
def test_spaces_and_their_marks_are_not_compared(shown, bare):
    assert prompt_logprobs._plain(shown) == bare
