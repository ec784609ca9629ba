"""A hub on this machine: as much of its HTTP API as `huggingface_hub` calls for an upload, and faults on demand.

Checked against what huggingface_hub's own calls expect (`hf_api`, `_commit_api`, `lfs`): bodies are parsed as sent, LFS
objects are held against their digest, a commit names objects that are there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LARGE = (".safetensors", "tokenizer.json")
TOKEN = "hf_" + "stubstubstubstubstub"


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)


@dataclass
class Fault:
    """What happens to the first `times` requests like this: a status with a body, or the connection is cut (None)."""

    request: str
    status: int | None
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """Each request, as "METHOD path"."""
    agents: set[str] = field(default_factory=set)
    url: str = ""

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[name].branches[branch]


@contextmanager
def hub() -> Iterator[Hub]:
    state = Hub()
    handler = type("Handler", (Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self) -> None:
        place = self.path.split("?")[0]
        asked = f"{self.command} {place}"
        self.hub.heard.append(asked)
        self.hub.agents.add(self.headers.get("user-agent", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = next((f for f in self.hub.faults if f.times and re.search(f.request, asked)), None)
        if fault is not None:
            fault.times -= 1
            if fault.status is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer({"error": f"stub says {fault.status}"}, fault.status, fault.headers)
            return
        if "/lfs/" not in place and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials"}, 401)
            return
        for method, pattern, answer in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, place)):
                self._answer(*answer(self, body, **found.groupdict()))
                return
        self._answer({"error": f"unknown: {asked}"}, 404)

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # What is asked

    def _whoami(self, body: bytes) -> tuple[Any, int]:
        return {"type": "user", "name": "ada", "orgs": []}, 200

    def _create(self, body: bytes) -> tuple[Any, int]:
        said = json.loads(body)
        name = f"{said['organization'] or 'ada'}/{said['name']}"
        if name in self.hub.repositories:
            return {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409
        private = said.get("visibility", "private" if said.get("private") else "public") == "private"
        self.hub.repositories[name] = Repository(private, {"main": {".gitattributes": b"*.safetensors lfs"}})
        return {"url": f"{self.hub.url}/{name}", "name": name}, 200

    def _info(self, body: bytes, name: str) -> tuple[Any, ...]:
        found = self.hub.repositories.get(name)
        if found is None:
            return {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"}
        return {"_id": "1", "id": name, "modelId": name, "private": found.private, "tags": [], "downloads": 0}, 200

    def _revision(self, body: bytes, name: str, branch: str) -> tuple[Any, int]:
        info, status, *_ = self._info(body, name)
        return info | {"sha": hashlib.sha1(repr(self.hub.files(name, branch)).encode()).hexdigest()}, status

    def _tree(self, body: bytes, name: str, branch: str) -> tuple[Any, int]:
        files = self.hub.files(name, branch)
        return [{"type": "file", "path": p, "oid": _git(c), "size": len(c)} for p, c in files.items()], 200

    def _branch(self, body: bytes, name: str, branch: str) -> tuple[Any, int]:
        branches = self.hub.repositories[name].branches
        if branch in branches:
            return {"error": "Reference already exists"}, 409
        branches[branch] = dict(branches["main"])
        return {}, 200

    def _yaml(self, body: bytes) -> tuple[Any, int]:
        content = json.loads(body)["content"]
        sound = content.startswith("---\n")
        return {"errors": [] if sound else [{"message": "no metadata"}], "warnings": []}, 200 if sound else 400

    def _preupload(self, body: bytes, name: str, branch: str) -> tuple[Any, int]:
        held, answers = self.hub.files(name, branch), []
        for file in json.loads(body)["files"]:
            base64.b64decode(file["sample"], validate=True)
            path, large = file["path"], file["path"].endswith(LARGE)
            known = held.get(path)
            oid = None if known is None else hashlib.sha256(known).hexdigest() if large else _git(known)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}, 200

    def _batch(self, body: bytes, name: str) -> tuple[Any, int]:
        said, answers = json.loads(body), []
        assert said["operation"] == "upload"
        for one in said["objects"]:
            answers.append({"oid": one["oid"], "size": one["size"]})
            if one["oid"] not in self.hub.objects:
                answers[-1]["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"},
                    "verify": {"href": f"{self.hub.url}/{name}/lfs-verify"},
                }
        return {"transfer": "basic", "objects": answers}, 200

    def _put(self, body: bytes, oid: str) -> tuple[Any, int]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        return {}, 200

    def _verified(self, body: bytes, name: str) -> tuple[Any, int]:
        said = json.loads(body)
        return {}, 200 if len(self.hub.objects.get(said["oid"], b"")) == said["size"] else 404

    def _commit(self, body: bytes, name: str, branch: str) -> tuple[Any, int]:
        repository = self.hub.repositories[name]
        files = dict(repository.branches[branch])
        for line in body.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "header":
                repository.commits.append(value["summary"])
            elif part["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif part["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif part["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return {"error": f"unknown key {part['key']}"}, 400
        repository.branches[branch] = files
        oid = hashlib.sha1(body).hexdigest()
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}, 200


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


NAME, BRANCH = r"(?P<name>[^/]+/[^/]+)", r"(?P<branch>[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler._whoami),
    ("POST", "/api/repos/create", Handler._create),
    ("GET", f"/api/models/{NAME}", Handler._info),
    ("GET", f"/api/models/{NAME}/revision/{BRANCH}", Handler._revision),
    ("GET", f"/api/models/{NAME}/tree/{BRANCH}", Handler._tree),
    ("POST", f"/api/models/{NAME}/branch/{BRANCH}", Handler._branch),
    ("POST", "/api/validate-yaml", Handler._yaml),
    ("POST", f"/api/models/{NAME}/preupload/{BRANCH}", Handler._preupload),
    ("POST", f"/{NAME}\\.git/info/lfs/objects/batch", Handler._batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler._put),
    ("POST", f"/{NAME}/lfs-verify", Handler._verified),
    ("POST", f"/api/models/{NAME}/commit/{BRANCH}", Handler._commit),
]
