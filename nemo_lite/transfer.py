"""HTTP to a hub: answers as JSON, and files that are resumed, retried and verified.

Which files make a checkpoint and where they go is decided in `hub.py`.
"""

import hashlib
import http.client
import json
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from nemo_lite.errors import DownloadError
from nemo_lite.registry import RemoteFile

logger = logging.getLogger(__name__)

BLOCK_BYTES = 2**20
_MAX_JSON_BYTES = 16 * 2**20
_MAX_WAIT_S = 60.0
_SHA1_DIGITS = 40

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a download goes on without success.

    `attempts` requests in a row may fail without a mebibyte of progress; the waits between them
    start at `wait_s` and double. `timeout_s` is the longest silence on a connection, `stall_s` the
    longest time to wait for another process that downloads the same and gets no further.
    """

    attempts: int = 5
    wait_s: float = 1.0
    timeout_s: float = 30.0
    stall_s: float = 180.0


DEFAULT_RETRY = Retry()


class Stage(StrEnum):
    """What a download is doing."""

    WAITING = "waiting"
    """Another process downloads the same."""
    FETCHING = "fetching"
    VERIFYING = "verifying"


class HubUnreachable(DownloadError):
    """The hub did not answer, or only with temporary errors, as often as it was asked."""


class _Interrupted(Exception):
    """This attempt failed in a way that another one may not. `wait_s` is the server's wish."""

    def __init__(self, why: str, *, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Connection:
    """Requests to one hub. The token goes to the hub itself, never to where it redirects."""

    def __init__(self, *, token: str | None, retry: Retry) -> None:
        self._token = (token or "").strip()
        self._retry = retry

    def get_json(self, url: str) -> Any:
        """What the hub answers, parsed.

        Raises:
            HubUnreachable: no answer.
            DownloadError: the hub refuses, or what it says is no JSON.
        """
        body = self._retrying(url, lambda: self._get(url), progress=lambda: 0)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise DownloadError(f"{url} does not answer like a model hub") from error

    def fetch(
        self, url: str, file: RemoteFile, part: Path, *, report: Callable[[Stage, int], None]
    ) -> None:
        """Make `part` hold the whole file, verified; what is there already is continued.

        `report` is told the stage and the bytes at hand. An interrupted `part` is kept, one with a
        wrong checksum is not: if it was continued, the file is fetched once more from the start.

        Raises:
            HubUnreachable: the connection failed too often in a row.
            DownloadError: the hub refuses, or sends something else than it published.
            OSError: `part` cannot be written.
        """
        resumed = _size(part) > 0
        self._retrying(
            url, lambda: self._continue(url, file, part, report), progress=lambda: _size(part)
        )
        report(Stage.VERIFYING, file.size_bytes)
        if _digest(part, file) == file.digest:
            return
        part.unlink()
        if not resumed:
            raise DownloadError(
                f"{url} does not have the published checksum {file.digest}: nothing of it was "
                "kept. A proxy or mirror may have changed it; try again or use another endpoint"
            )
        logger.warning("hub.partial_file_was_damaged", extra={"file": file.name})
        self.fetch(url, file, part, report=report)

    def _get(self, url: str) -> bytes:
        with self._open(url) as response:
            body = _read(response, _MAX_JSON_BYTES + 1, whole=True)
        if len(body) > _MAX_JSON_BYTES:
            raise DownloadError(f"{url} answers with more than {_MAX_JSON_BYTES} bytes")
        return body

    def _continue(
        self, url: str, file: RemoteFile, part: Path, report: Callable[[Stage, int], None]
    ) -> None:
        """One attempt at what is missing in `part`."""
        have = _size(part)
        if have > file.size_bytes:
            part.unlink()
            have = 0
        report(Stage.FETCHING, have)
        if have == file.size_bytes > 0:
            return
        with self._open(url, offset=have) as response, part.open("ab") as out:
            if have and not _answers_from(response, have):
                out.truncate(0)
                have = 0
            have = _copy(response, out, file.size_bytes, have, report)
            out.flush()
            os.fsync(out.fileno())
        if have < file.size_bytes:
            raise _Interrupted(f"the connection ended after {have} of {file.size_bytes} bytes")

    def _open(self, url: str, *, offset: int = 0) -> http.client.HTTPResponse:
        try:
            request = Request(url, headers={"User-Agent": "nemo_lite"})
            if offset:
                request.add_header("Range", f"bytes={offset}-")
            if self._token:
                request.add_unredirected_header("Authorization", f"Bearer {self._token}")
            return urlopen(request, timeout=self._retry.timeout_s)
        except HTTPError as error:
            with error:
                raise _refusal(error, url) from None
        except (OSError, http.client.HTTPException) as error:
            raise _failure(error) from error
        except ValueError as error:
            raise DownloadError(f"{url} cannot be requested: {error}") from error

    def _retrying(self, url: str, attempt: Callable[[], T], *, progress: Callable[[], int]) -> T:
        failures = 0
        while True:
            before = progress()
            try:
                return attempt()
            except _Interrupted as error:
                failures = 1 if progress() - before >= BLOCK_BYTES else failures + 1
                if failures >= self._retry.attempts:
                    raise HubUnreachable(
                        f"{url} cannot be downloaded: {error}; try again later, nothing is lost"
                    ) from error
                wait_s = max(error.wait_s, self._retry.wait_s * 2 ** (failures - 1))
                logger.info("hub.retry", extra={"url": url, "why": str(error), "wait_s": wait_s})
            time.sleep(min(wait_s, _MAX_WAIT_S))


def _copy(
    response: http.client.HTTPResponse,
    out: BinaryIO,
    size: int,
    have: int,
    report: Callable[[Stage, int], None],
) -> int:
    """Append until the response ends; returns the size of `out` then."""
    reported = have
    while block := _read(response, BLOCK_BYTES):
        have += len(block)
        if have > size:
            raise DownloadError(f"the hub sends more than the {size} bytes it published")
        out.write(block)
        if have - reported >= BLOCK_BYTES or have == size:
            out.flush()
            report(Stage.FETCHING, have)
            reported = have
    return have


def _read(response: http.client.HTTPResponse, limit: int, *, whole: bool = False) -> bytes:
    """Up to `limit` bytes: what has come by now, or all until then. Empty at the end."""
    try:
        return response.read(limit) if whole else response.read1(limit)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(error) from error


def _failure(error: Exception) -> Exception:
    """A connection that failed: mostly worth another attempt."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(
            f"the hub's certificate is not trusted here ({reason.verify_message}): "
            "install this machine's root certificates"
        )
    return _Interrupted(str(reason) or repr(reason))


def _refusal(error: HTTPError, url: str) -> Exception:
    """What an error status means to the person who asked."""
    if error.code in (408, 429) or error.code >= 500:
        return _Interrupted(f"HTTP {error.code}", wait_s=_retry_after(error))
    code = error.headers.get("X-Error-Code", "")
    if code == "GatedRepo":
        return DownloadError(
            f"{url} is gated: accept its terms on the model's page, then give an access token"
        )
    if error.code in (401, 403):
        return DownloadError(
            f"{url} is not allowed (HTTP {error.code}): the repository does not exist, or is "
            "private and needs a valid access token"
        )
    if error.code == 404:
        what = {"RevisionNotFound": "revision", "EntryNotFound": "file"}.get(code, "repository")
        return DownloadError(f"{url}: there is no such {what} (HTTP 404)")
    return DownloadError(f"{url} answers HTTP {error.code} {error.reason}")


def _retry_after(error: HTTPError) -> float:
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return 0.0  # absent, or a date


def _answers_from(response: http.client.HTTPResponse, offset: int) -> bool:
    """False where the server ignored the range and sends the file from its start."""
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(path: Path, file: RemoteFile) -> str:
    """The file's checksum in the kind in which its digest was published."""
    if len(file.digest) == _SHA1_DIGITS:
        digest = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
