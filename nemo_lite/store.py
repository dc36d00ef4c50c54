"""Checkpoints on disk: a folder per repository, in it one per commit, whole or not there at all.

`<commit>.partial` is filled by one process at a time and renamed to `<commit>` when everything in
it is verified. `<branch>.ref` holds the commit a branch or tag had when the hub was last asked.
"""

import re
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

from nemo_lite.errors import DownloadError

if sys.platform != "win32":
    import fcntl

COMMIT = re.compile(r"[0-9a-f]{40}")
_POLL_S = 0.1


def default_cache_dir() -> Path:
    """Where checkpoints are kept unless told otherwise: `~/.cache/nemo_lite`.

    Raises:
        DownloadError: this user has no home folder.
    """
    try:
        return Path.home() / ".cache" / "nemo_lite"
    except RuntimeError as error:
        raise DownloadError("this user has no home folder: name a cache folder") from error


class Store:
    """What the cache holds of one repository, `owner/name`."""

    def __init__(self, cache_dir: Path | None, repo: str) -> None:
        root = default_cache_dir() if cache_dir is None else cache_dir
        self.path = root / repo.replace("/", "--")

    def checkpoint(self, commit: str) -> Path | None:
        """The checkpoint of this commit; None if it is not here completely."""
        return self.path_of(commit) if (self.path / commit).is_dir() else None

    def path_of(self, commit: str) -> Path:
        """The `.nemo` file of a commit that is here, else its folder."""
        folder = self.path / commit
        return next(folder.glob("*.nemo"), folder)

    def commit_of(self, revision: str) -> str | None:
        """The commit that the branch or tag had when it was last downloaded."""
        try:
            commit = self._ref(revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def remember(self, revision: str, commit: str) -> None:
        """Note which commit a branch or tag has now; the caller holds that commit's lock."""
        if self.commit_of(revision) != commit:
            draft = self.path / f"{commit}.draft"
            draft.write_text(commit, encoding="ascii")
            draft.replace(self._ref(revision))

    def partial(self, commit: str) -> Path:
        """The folder to collect the files of a commit in, made if need be."""
        folder = self.path / f"{commit}.partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def complete(self, commit: str) -> None:
        """The partial folder has everything: make it the checkpoint."""
        (self.path / f"{commit}.partial").replace(self.path / commit)

    @contextmanager
    def lock(
        self, commit: str, *, stall_s: float, waiting: Callable[[int], None]
    ) -> Generator[None, None, None]:
        """Hold a commit's partial folder alone among all threads and processes.

        `waiting` is told the folder's bytes again and again while another one holds it.

        Raises:
            DownloadError: another one holds it and got no further for `stall_s` seconds.
            OSError: the cache cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        seen, since = -1, 0.0
        with (self.path / f"{commit}.lock").open("a") as file:
            while not _try_lock(file):
                now, size = time.monotonic(), size_of(self.path / f"{commit}.partial")
                if size != seen:
                    seen, since = size, now
                elif now - since >= stall_s:
                    raise DownloadError(
                        f"another process has been downloading to {self.path} and got no further "
                        f"for {stall_s:.0f} s: end it and try again"
                    )
                waiting(size)
                time.sleep(_POLL_S)
            yield

    def _ref(self, revision: str) -> Path:
        return self.path / f"{quote(revision, safe='')}.ref"


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, which may be changed at the same time."""
    total = 0
    try:
        for path in folder.rglob("*"):
            total += path.stat().st_size if path.is_file() else 0
    except OSError:
        pass  # renamed or removed just now
    return total


def _try_lock(file: IO[str]) -> bool:
    """True when the lock is ours, or where there are no locks: verification catches a mix-up."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a network file system without locks
    return True
