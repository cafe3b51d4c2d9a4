"""A server on the loopback that answers as the HuggingFace hub does, as far as reading goes.

It serves the files of real folders under the addresses that `huggingface_hub` asks for: the facts
of a dataset, listings, sizes, and the files themselves with ranges.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repository:
    branches: dict[str, Path]
    """branch -> folder of its files"""
    gated: bool = False
    tags: list[str] = field(default_factory=list)

    def resolved(self, revision: str) -> tuple[str, Path] | None:
        """(commit, folder) of a branch or commit."""
        for branch, folder in self.branches.items():
            commit = hashlib.sha1(branch.encode()).hexdigest()
            if revision in (branch, commit):
                return commit, folder
        return None


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.asked: list[str] = []
        """METHOD path of every request."""
        self.broken: set[str] = set()
        """Files that are answered with status 503."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running(repositories: dict[str, Repository]) -> Iterator[HubServer]:
    with HubServer(repositories) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        # Refs such as refs/convert/parquet are one quoted part of the address.
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if parts[0] not in ("api", "datasets") or len(parts) < 3:
            self._fail(404, "")
            return
        self.server.asked.append(f"{self.command} {'/'.join(parts)}")
        is_api = parts[0] == "api"
        _, owner, name, *rest = parts[1:] if is_api else parts
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None:
            self._fail(401, "RepoNotFound")
        elif is_api:
            self._api(f"{owner}/{name}", repository, rest)
        else:
            self._file(repository, rest)

    def _api(self, repo: str, repository: Repository, rest: list[str]) -> None:
        kind, revision, *path = [*rest, *["revision", "main"][len(rest) :]]
        resolved = repository.resolved(revision)
        if resolved is None:
            self._fail(404, "RevisionNotFound")
            return
        commit, folder = resolved
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if kind == "revision":
            siblings = [
                {"rfilename": p.relative_to(folder).as_posix(), "size": p.stat().st_size}
                for p in files
            ]
            facts = {"id": repo, "sha": commit, "siblings": siblings, "tags": repository.tags}
            self._json(facts | {"gated": "manual" if repository.gated else False})
        elif kind == "tree":
            base = folder / "/".join(path)
            if not base.exists():
                self._fail(404, "EntryNotFound")
                return
            is_recursive = self.query.get("recursive", ["False"])[0].lower() in ("true", "1")
            inside = base.rglob("*") if is_recursive else base.iterdir()
            self._json([_entry(p, folder) for p in sorted(inside)])
        else:
            assert kind == "paths-info"
            asked = parse_qs(self.body.decode()).get("paths")
            asked = asked if asked is not None else json.loads(self.body)["paths"]
            wanted = [folder / path for path in ([asked] if isinstance(asked, str) else asked)]
            self._json([_entry(path, folder) for path in wanted if path.exists()])

    def _file(self, repository: Repository, rest: list[str]) -> None:
        _, revision, *path = rest
        resolved = repository.resolved(revision)
        if repository.gated:
            self._fail(403, "GatedRepo")
        elif resolved is None:
            self._fail(404, "RevisionNotFound")
        elif "/".join(path) in self.server.broken:
            self._fail(503, "")
        elif not (resolved[1] / "/".join(path)).is_file():
            self._fail(404, "EntryNotFound", resolved[0])
        else:
            self._bytes((resolved[1] / "/".join(path)).read_bytes(), resolved[0])

    def _bytes(self, data: bytes, commit: str) -> None:
        start, end = 0, len(data)
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else end, end)
        self.send_response(206 if wanted else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[start:end])

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()


def _entry(path: Path, folder: Path) -> dict[str, object]:
    name = path.relative_to(folder).as_posix()
    oid = hashlib.sha1(name.encode()).hexdigest()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": oid, "size": 0}
    return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}
