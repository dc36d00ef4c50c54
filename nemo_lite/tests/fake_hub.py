"""A model hub on loopback for tests: the listing, the files, a second origin that large files are
redirected to, and faults on demand; and what tests say of it again and again."""

import hashlib
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from nemo_lite.hub import download
from nemo_lite.registry import ModelEntry, RemoteFile
from nemo_lite.transfer import Retry

MIB = 2**20
ARCHIVE = random.Random(1).randbytes(3 * MIB + 12_345)
"""The content of a large file."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEXT_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
QUICK = Retry(attempts=3, wait_s=0.0, timeout_s=20.0, stall_s=20.0)
LARGE_BYTES = 1_000
"""Files of at least this size are kept as the hub keeps large files."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer. The default is nothing."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    """Bytes of the body after which the connection is closed."""
    flip_byte: int | None = None
    """Position in the file of a byte that is changed."""
    ignore_range: bool = False
    extra: bytes = b""
    """Sent after the file."""
    hold: threading.Event | None = None
    """Waited for after `cut_after` bytes; then the rest is sent."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    path: str
    origin: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """The hub's content and what happened to it."""

    files: dict[str, bytes] = field(default_factory=dict)
    repo: str = "acme/tiny"
    commit: str = COMMIT
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    gated: bool = False
    faults: list[Fault] = field(default_factory=list)
    """Taken one by one by requests for files' contents."""
    listing_faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    cdn_url: str = ""

    @property
    def contents(self) -> list[Request]:
        """The requests that got, or should have got, bytes of a file."""
        return [request for request in self.requests if request.origin == "cdn"] + [
            request
            for request in self.requests
            if request.origin == "hub"
            and "/resolve/" in request.path
            and len(self.files.get(request.path.rpartition("/")[2], b"")) < LARGE_BYTES
        ]

    def listing(self) -> dict[str, object]:
        """The answer of `/api/models/…?blobs=true`."""
        return {
            "id": self.repo,
            "modelId": self.repo,
            "sha": self.commit,
            "siblings": [sibling(name, content) for name, content in self.files.items()],
        }


def sibling(name: str, content: bytes) -> dict[str, object]:
    """How the hub describes a file."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if len(content) >= LARGE_BYTES:
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
    return entry


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` until the block ends."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(hub, o)) for o in ("hub", "cdn")]
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        for server in servers
    ]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def handler(hub: FakeHub, origin: str) -> type[BaseHTTPRequestHandler]:
    """The request handler of one of the two origins."""

    class Handler(_Handler):
        HUB = hub
        ORIGIN = origin

    return Handler


def pull(fake: FakeHub, cache: Path, source: str = "acme/tiny", **options: object) -> Path:
    """A download without patience."""
    given_options = {"endpoint": fake.url, "cache_dir": cache, "retry": QUICK, **options}
    return download(source, **given_options)  # type: ignore[arg-type]


def kept(cache: Path) -> dict[str, bytes]:
    """Every file in the cache by its path there."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in cache.rglob("*")
        if path.is_file()
    }


def entry(fake: FakeHub, **changes: object) -> ModelEntry:
    """A registry entry for what the fake hub has."""
    facts: dict[str, object] = {
        "name": "tiny",
        "repo": fake.repo,
        "revision": fake.commit,
        "files": (RemoteFile("tiny.nemo", len(ARCHIVE), hashlib.sha256(ARCHIVE).hexdigest()),),
        "family": "transducer",
        "loader": "transducer",
        "lookaheads": (1,),
        "languages": ("en",),
        "licence": "MIT",
        "features": frozenset(),
        "description": "for tests",
    }
    return ModelEntry(**{**facts, **changes})  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    HUB: ClassVar[FakeHub]
    ORIGIN: ClassVar[str]

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        hub, headers = self.HUB, self.headers
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(
            Request(path, self.ORIGIN, headers.get("Range"), headers.get("Authorization"))
        )
        api, resolve = f"/api/models/{hub.repo}/revision/", f"/{hub.repo}/resolve/"
        if self.ORIGIN == "cdn":
            self._content(hub.files[path[1:]])
        elif path.startswith(api):
            self._listing(path.removeprefix(api))
        elif path.startswith(resolve):
            self._file(*path.removeprefix(resolve).split("/", 1))
        else:
            self._refuse(404, "RepoNotFound")

    def _listing(self, revision: str) -> None:
        hub = self.HUB
        fault = hub.listing_faults.pop(0) if hub.listing_faults else Fault()
        if fault.status != 200:
            self._refuse(fault.status, "", fault.headers)
        elif revision not in hub.branches and revision != hub.commit:
            self._refuse(404, "RevisionNotFound")
        else:
            self._send(200, json.dumps(hub.listing()).encode() + fault.extra, fault)

    def _file(self, revision: str, name: str) -> None:
        hub = self.HUB
        if hub.gated and self.headers.get("Authorization") != "Bearer good":
            self._refuse(403, "GatedRepo")
        elif revision != hub.commit or name not in hub.files:
            self._refuse(404, "EntryNotFound")
        elif len(hub.files[name]) >= LARGE_BYTES:
            self.send_response(302)
            self.send_header("Location", f"{hub.cdn_url}/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._content(hub.files[name])

    def _content(self, content: bytes) -> None:
        fault = self.HUB.faults.pop(0) if self.HUB.faults else Fault()
        if fault.status != 200:
            self._refuse(fault.status, "", fault.headers)
            return
        if fault.flip_byte is not None:
            at = fault.flip_byte
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        wanted = self.headers.get("Range")
        if wanted is None or fault.ignore_range:
            self._send(200, content + fault.extra, fault)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self._refuse(416, "")
            return
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:] + fault.extra, fault, ("Content-Range", span))

    def _send(self, status: int, body: bytes, fault: Fault, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body[: fault.cut_after])
            if fault.hold is not None:
                fault.hold.wait(timeout=60)
                self.wfile.write(body[fault.cut_after :])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone

    def _refuse(self, status: int, code: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", "0")):
            self.send_header(name, value)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
