"""A server around a small random model that answers as vLLM's does, and that can be told to misbehave.

`serving()` (with a model's folder, where it is to serve that one) is a process on 127.0.0.1. The first part of a path
is the fault, the second any name:
`http://127.0.0.1:PORT/short/1` answers with a position too few. A fault with a count, such as `busy`, counts by that
name.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tests.helpers import processes

VOCABULARY = 140_000
POSITIONS = 40
GRANTED = 20
NAME = "teacher"
STATUSES = {"unauthorized": 401, "forbidden": 403, "broken": 500, "gone": 404, "moved": 302, "kept": 308}


def teacher() -> GPT2LMHeadModel:
    """The same weights in every process, spread so that the likeliest tokens stand apart."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=1, n_positions=POSITIONS)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(100)
    return model


def prompt_logprobs(
    model: GPT2LMHeadModel, ids: list[int], k: int, spell: Callable[[int], str] = "<{}>".format
) -> list[dict[str, Any] | None]:
    """As vLLM: the token that stands there with its rank, then the k likeliest; each as the tokenizer writes it."""
    with torch.no_grad():  # a float32 sum over V is off by up to V · 2⁻²⁴, and by its root, 2e-5, as a rule
        log_probs = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1).float()
    positions: list[dict[str, Any] | None] = [None]
    for row, token in zip(log_probs, ids[1:], strict=True):
        values, top = row.topk(k)
        standing = (token, float(row[token]), int((row >= row[token]).sum()))
        likeliest = zip(top.tolist(), values.tolist(), range(1, k + 1), strict=True)
        positions.append(
            {str(i): {"logprob": p, "rank": r, "decoded_token": spell(i)} for i, p, r in [standing, *likeliest]}
        )
    return positions


def spoil(fault: str, positions: list[Any], ids: list[int]) -> Any:
    """A wrong answer in place of a right one."""
    last = positions[-1]
    first = next(iter(last))
    likeliest = next(name for name, value in last.items() if value["rank"] == 1)
    values = {"positive": 0.25, "nan": float("nan"), "infinite": float("inf"), "worded": "-1.0", "absent": None}
    if fault in values:
        last[first]["logprob"] = values[fault]
    elif fault == "huge":
        last[first]["logprob"] = -(10**400)
    elif fault == "heavy":
        for value in last.values():
            value["logprob"] = min(0.0, value["logprob"] + 30)
    elif fault == "short":
        positions.pop()
    elif fault == "long":
        positions.append(last)
    elif fault == "unshifted":  # no null: position t holds what is expected after it
        positions[0] = last
    elif fault == "few":
        positions[-1] = dict(list(last.items())[:3])
    elif fault == "renamed":
        last["-7"] = last.pop(first)
    elif fault == "padded":
        last["07"] = last.pop(first)
    elif fault == "beyond":
        last[str(VOCABULARY)] = last.pop(first)
    elif fault == "unranked":  # ranks that contradict the log-probabilities
        last[likeliest]["rank"] = 2
        next(value for name, value in last.items() if name != likeliest and value["rank"] == 2)["rank"] = 1
    elif fault == "holed":  # the token that stands there in place of the k-th likeliest
        positions[-1] = {n: v for n, v in last.items() if v["rank"] != len(last) - 1}
    elif fault == "other":  # the answer to another text
        positions[-1] = {str((int(n) + 1) % VOCABULARY) if n == str(ids[-1]) else n: v for n, v in last.items()}
    elif fault == "flat":
        positions[-1] = [1, 2]
    return positions


class Handler(BaseHTTPRequestHandler):
    model: GPT2LMHeadModel
    spell: Any = staticmethod("<{}>".format)
    known: dict[tuple[int, ...], str] = {}
    asked: Counter[str] = Counter()
    sizes: dict[str, list[int]] = {}
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        fault, name, path = self.split()
        if path == "sizes":
            self.send({"sizes": self.sizes.get(name, [])})
        elif not self.misbehave(fault, name, path):
            names = {"unlisted": [], "mumbling": [3, None], "echoing": [self.key(), "tercher"]}.get(fault, [NAME])
            self.send({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})

    def do_POST(self) -> None:
        fault, name, path = self.split()
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.misbehave(fault, name, path):
            return
        if path != "v1/completions" or request["model"] != NAME or (request["max_tokens"], request["temperature"]) != (
            1, 0):  # fmt: skip
            return self.send({"error": {"message": f"no such thing, {self.key()}"}}, 404)
        k, prompts = request["prompt_logprobs"], request["prompt"]
        if k > GRANTED:
            message = f"Requested prompt logprobs of {k}, which is greater than max allowed: {GRANTED} ({self.key()})"
            return self.send({"error": {"message": message, "type": "BadRequestError"}}, 400)
        self.sizes.setdefault(name, []).append(len(prompts))
        choices = []
        for index, ids in enumerate(prompts):
            positions = spoil(fault, self.right(ids, k), ids)
            if fault == "lean":  # the k likeliest alone, unranked
                positions[1:] = [
                    {n: {"logprob": v["logprob"]} for n, v in p.items() if v["rank"] <= k} for p in positions[1:]
                ]
            self.asked[name] += 1
            if (fault == "replaced" and self.asked[name] > 3) or (fault == "wavering" and self.asked[name] == 4):
                for value in positions[1].values():
                    value["logprob"] -= 0.01
            choices.append({"index": index, "text": "", "prompt_logprobs": positions})
        choices.reverse()  # the order is the index's to say
        if fault == "choiceless":
            choices.pop()
        if fault == "twice":
            choices = [{**choice, "index": 0} for choice in choices] * 2
        if fault == "bare":
            choices = [{"index": choice["index"], "text": ""} for choice in choices]
        self.send({"object": "text_completion"} if fault == "empty" else {"model": NAME, "choices": choices})

    def right(self, ids: list[int], k: int) -> list[Any]:
        """Computed once: nearly every test asks the probe."""
        request = (*ids, k)
        if request not in self.known:
            self.known[request] = json.dumps(prompt_logprobs(self.model, ids, k, self.spell))
        return json.loads(self.known[request])

    def split(self) -> tuple[str, str, str]:
        _, fault, name, path = self.path.split("/", 3)
        return fault, f"{fault}/{name}", path

    def key(self) -> str:
        return self.headers.get("Authorization", "no key").removeprefix("Bearer ")

    def send(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.write(json.dumps(answer).encode(), status, headers)

    def write(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def pour(self, piece: bytes, pause: float = 0.0) -> bool:
        """Bytes without an end."""
        try:
            while True:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(pause)
        except OSError:
            self.close_connection = True
            return True

    def misbehave(self, fault: str, name: str, path: str) -> bool:
        """The faults of the connection; False where there is none."""
        self.asked[name] += fault in ("busy", "patient", "flaky", "long-busy")
        first = self.asked[name] <= 2
        if fault in STATUSES:
            self.send_response(STATUSES[fault], f"no {self.key()}")
            self.send_header("Location", f"http://elsewhere.example:81{self.path}?key={self.key()}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault in ("busy", "patient") and first:
            self.send({}, 503 if fault == "busy" else 429, {"Retry-After": "3"} if fault == "patient" else {})
        elif fault == "long-busy":
            self.send({}, 503, {"Retry-After": "86400"})
        elif (fault == "flaky" and first) or fault == "cut":
            self.write(b'{"data": [', headers={"Content-Length": "100"})
        elif fault == "cut-chunk":
            self.write(b"40\r\n{}", headers={"Transfer-Encoding": "chunked"})
        elif fault == "silent":
            time.sleep(1.0)
        elif fault == "drip":
            self.write(b" ", headers={"Content-Length": "1000"})
            return self.pour(b" ", 0.02)
        elif fault == "drip-header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            return self.pour(b"x", 0.02)
        elif fault == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            return self.pour(b"x" * 65536)
        elif fault == "headers":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n")
            return self.pour(b"X: y\r\n\r\nHTTP/1.1 100 Continue\r\n" * 1000)
        elif fault == "promised":
            self.write(b"{}", headers={"Content-Length": str(1 << 31)})
        elif fault == "endless":
            self.write(b"", headers={"Transfer-Encoding": "chunked"})
            return self.pour(b"10000\r\n" + b" " * 65536 + b"\r\n")
        elif fault == "html":
            self.write(f"<!doctype html><title>{self.key()}\x1b[31m</title>".encode())
        elif fault == "garbled":
            self.write(b'{"data": [')
        elif fault == "deep":
            self.write(b"[" * 200_000)
        elif fault == "array":
            self.write(b"[]")
        elif fault == "bytes":
            self.write(bytes(range(256)))
        elif fault == "ssh":
            self.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        elif fault == "chunks":
            self.write(b"-5\r\nxx", headers={"Transfer-Encoding": "chunked"})
        else:
            return False
        self.close_connection = True
        return True


def serve(channel: Connection, folder: str | None) -> None:
    """Serves the model of a folder, or that of `teacher`, until the channel closes; sends its port first."""
    Handler.model = teacher() if folder is None else AutoModelForCausalLM.from_pretrained(folder).eval()
    if folder is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        Handler.spell = staticmethod(lambda i: tokenizer.decode([i]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    channel.send(server.server_address[1])
    channel.poll(None)


@contextmanager
def serving(folder: str | None = None) -> Iterator[tuple[int, BaseProcess]]:
    """(port, process) of a server process of its own, which ends with the block."""
    ours, theirs = processes.CONTEXT.Pipe()
    process = processes.CONTEXT.Process(target=serve, args=(theirs, folder))
    process.start()
    theirs.close()
    try:
        yield ours.recv(), process
    finally:
        ours.close()
        process.kill()
        process.join(10)
