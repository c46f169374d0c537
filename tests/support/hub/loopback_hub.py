"""A Hub on 127.0.0.1 for the real client: repositories in memory, tokens, and faults that a test requests.

It implements what huggingface_hub needs to create, commit (with LFS), tag, list and download. Xet is not implemented:
the client runs with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Files = dict[str, bytes]
KNOWN_LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "other"}


@dataclass
class Repository:
    """A repository; each commit contains all files."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        oid = hashlib.sha1(repr((sorted(files.items()), len(self.commits), branch)).encode()).hexdigest()
        self.commits[oid] = dict(files)
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str | None:
        found = {**{oid: oid for oid in self.commits}, **self.tags, **self.branches}
        return found.get(revision)

    @property
    def files(self) -> Files:
        return self.commits[self.branches["main"]]


class Hub:
    """State of the Hub; ``faults["drop put"] = 2`` interrupts the next two uploads, for example."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens = {"hf_write": ("me", True), "hf_read": ("me", False), "hf_other": ("other", True)}
        self.objects: Files = {}
        self.faults: Counter[str] = Counter()
        self.stall_seconds = 3.0
        self.misbehave: Callable[[Handler], None] | None = None  # called before a request is answered
        self.log: list[tuple[str, str]] = []
        self.url = ""

    def put(self, name: str, files: Files, **settings: Any) -> str:
        """Create a commit without an upload."""
        repository = self.repositories.setdefault(name, Repository(**settings))
        return repository.commit(files)

    def due(self, fault: str) -> bool:
        """Whether a fault was requested; each request counts once."""
        if self.faults[fault] > 0:
            self.faults[fault] -= 1
            return True
        return False

    @contextmanager
    def running(self) -> Iterator[Hub]:
        hub = self

        class OfHub(Handler):
            pass

        OfHub.hub = hub
        server = ThreadingHTTPServer(("127.0.0.1", 0), OfHub)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class Refused(Exception):
    """An answer that is an error, with its status and the headers of the Hub."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


class Dropped(Exception):
    """The connection is closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def handle_any(self) -> None:
        self.path_only, self.query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        self.hub.log.append((self.command, unquote(self.path_only)))
        try:
            if self.hub.misbehave is not None:
                self.hub.misbehave(self)
            if self.hub.due("stall"):
                time.sleep(self.hub.stall_seconds)
                raise Dropped
            self.body = self._read()
            if self.hub.due("busy"):
                raise Refused(503, "busy")
            self._answer()
        except Refused as error:
            self._send(error.status, {"error": error.message}, code=error.code, message=error.message)
        except (Dropped, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _read(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and self.hub.due("drop put"):
            self.rfile.read(length // 2)
            raise Dropped
        return self.rfile.read(length)

    def _answer(self) -> None:
        routes = [
            (r"/api/whoami-v2", self.whoami),
            (r"/api/validate-yaml", self.validate),
            (r"/api/repos/create", self.create),
            (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"/api/models/([^/]+/[^/]+)/tag/(.+)", self.tag),
            (r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.branch),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self.tree),
            (r"/api/models/([^/]+/[^/]+)/refs", self.refs),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/objects/([0-9a-f]{64})", self.store),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ]
        for pattern, action in routes:
            if found := re.fullmatch(pattern, self.path_only):
                action(*(unquote(group) if group else None for group in found.groups()))
                return
        raise Refused(404, f"no {self.command} {self.path_only}")

    # Permissions

    def user(self) -> tuple[str | None, bool]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token:
            return None, False
        if token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def repository(self, name: str | None, write: bool = False) -> Repository:
        found, (user, may_write) = self.hub.repositories.get(str(name)), self.user()
        mine = user == str(name).partition("/")[0]
        if found is None or (found.private and not mine):
            raise Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and not (mine and may_write):
            raise Refused(401 if user is None else 403, "You need write access")
        return found

    def at(self, repository: Repository, revision: str | None) -> tuple[str, Files]:
        oid = repository.find(revision or "main")
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    # Reading

    def whoami(self) -> None:
        user, _ = self.user()
        self._send(200, {"name": user, "type": "user", "orgs": []}) if user else self._send(401, {})

    def info(self, name: str, revision: str | None) -> None:
        repository = self.repository(name)
        oid, files = self.at(repository, revision)
        siblings = [{"rfilename": path, **_about(path, data, "blobId")} for path, data in files.items()]
        self._send(200, {"id": name, "sha": oid, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, name: str, revision: str) -> None:
        _, files = self.at(self.repository(name), revision)
        self._send(200, [{"type": "file", "path": path, **_about(path, data, "oid")} for path, data in files.items()])

    def refs(self, name: str) -> None:
        repository = self.repository(name)
        listed = {
            kind: [{"name": key, "ref": f"refs/{kind}/{key}", "targetCommit": oid} for key, oid in refs.items()]
            for kind, refs in (("branches", repository.branches), ("tags", repository.tags))
        }
        self._send(200, {**listed, "converts": []})

    def resolve(self, name: str, revision: str, path: str) -> None:
        oid, files = self.at(self.repository(name), revision)
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        data, about = files[path], _about(path, files[path], "oid")
        etag = about["lfs"]["sha256"] if "lfs" in about else about["oid"]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{etag}"'}
        if "lfs" in about:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if self.command == "GET" and path.endswith(".safetensors") and self.hub.due("short download"):
            data = data[: len(data) // 2]  # complete as far as HTTP is concerned
        self._send(200, data, headers, cut=path.endswith(".safetensors") and self.command == "GET")

    # Writing

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        problems = metadata_problems(text)
        self._send(400 if problems else 200, {"errors": [{"message": one} for one in problems], "warnings": []})

    def create(self) -> None:
        request, (user, may_write) = json.loads(self.body), self.user()
        name = f"{request.get('organization') or user}/{request['name']}"
        if user is None or not may_write or name.partition("/")[0] != user:
            raise Refused(401 if user is None else 403, "You may not create this repository")
        if name in self.hub.repositories:
            self._send(409, {"url": f"{self.hub.url}/{name}", "error": "You already created this model repo"})
            return
        self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=_is_private(request))
        self._send(200, {"url": f"{self.hub.url}/{name}"})

    def preupload(self, name: str, revision: str) -> None:
        _, files = self.at(self.repository(name, write=True), revision)
        answers = []
        for one in json.loads(self.body)["files"]:
            path, mode = one["path"], "lfs" if one["path"].endswith(".safetensors") else "regular"
            about = _about(path, files[path], "oid") if path in files else {}
            oid = about["lfs"]["sha256"] if "lfs" in about else about.get("oid")
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": answers})

    def batch(self, name: str) -> None:
        self.repository(name, write=True)
        objects = []
        for one in json.loads(self.body)["objects"]:
            known = one["oid"] in self.hub.objects
            action = {} if known else {"actions": {"upload": {"href": f"{self.hub.url}/objects/{one['oid']}"}}}
            objects.append({"oid": one["oid"], "size": one["size"], **action})
        self._send(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "wrong digest")
        self.hub.objects[oid] = self.body
        self._send(200, {})

    def commit(self, name: str, branch: str) -> None:
        repository = self.repository(name, write=True)
        if self.hub.due("drop commit"):
            raise Dropped
        parent, files = self.at(repository, branch)
        changed = dict(files)
        for line in self.body.splitlines():
            key, value = (json.loads(line)[part] for part in ("key", "value"))
            if key == "header" and value.get("parentCommit") not in (None, parent):
                raise Refused(412, "The branch has moved")
            if key == "file":
                changed[value["path"]] = base64.b64decode(value["content"])
            if key == "lfsFile":
                changed[value["path"]] = self.hub.objects[value["oid"]]
            if key == "deletedFile":
                del changed[value["path"]]
        oid = repository.commit(changed, branch)
        if self.hub.due("lose answer"):
            raise Dropped
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    def tag(self, name: str, revision: str) -> None:
        repository = self.repository(name, write=True)
        if self.hub.due("drop tag"):
            raise Dropped
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise Refused(409, "Tag reference exists already")
        repository.tags[tag] = self.at(repository, revision)[0]
        self._send(200, {})

    def branch(self, name: str, branch: str) -> None:
        repository = self.repository(name, write=True)
        start = json.loads(self.body or b"{}").get("startingPoint")
        repository.branches[branch] = self.at(repository, start)[0]
        self._send(200, {})

    def _send(
        self,
        status: int,
        content: Any,
        headers: dict[str, str] | None = None,
        code: str = "",
        message: str = "",
        cut: bool = False,
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        named = {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": str(len(data)), **(headers or {})}
        for key, value in named.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and self.hub.due("drop download"):
            self.wfile.write(data[: len(data) // 2])
            raise Dropped
        self.wfile.write(data)


def metadata_problems(card: str) -> list[str]:
    """Problems that the Hub would report in the metadata of a model card."""
    parts = card.split("---\n")
    data = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else None
    if not isinstance(data, dict):
        return ["no metadata"]
    problems = [] if data.get("license", "other") in KNOWN_LICENSES else ['"license" must be one of a list']
    base = data.get("base_model")
    if base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        problems.append(f'"base_model" with value "{base}" is not valid')
    for model in data.get("model-index") or []:
        for result in model["results"]:
            if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                problems.append('"model-index" is not valid')
            problems += ['"model-index" has no value' for one in result["metrics"] if "value" not in one]
    return problems


def _is_private(request: dict[str, Any]) -> bool:
    return request.get("visibility") == "private" or bool(request.get("private"))


def _about(path: str, data: bytes, oid: str) -> dict[str, Any]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if not path.endswith(".safetensors"):
        return {"size": len(data), oid: git}
    sha = hashlib.sha256(data).hexdigest()
    return {"size": len(data), oid: git, "lfs": {"oid": sha, "sha256": sha, "size": len(data), "pointerSize": 130}}
