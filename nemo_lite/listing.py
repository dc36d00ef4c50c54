"""What a hub says a repository has, and which of it is worth fetching."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from nemo_lite.errors import DownloadError
from nemo_lite.registry import BASE_MODEL_FILES, RemoteFile
from nemo_lite.store import COMMIT
from nemo_lite.transfer import Connection

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_ARCHIVE = re.compile(r"\w[\w.-]*\.nemo", re.ASCII)
_FOLDER_FILE = re.compile(r"\w[\w.-]*\.(json|safetensors|yaml|model|txt)", re.ASCII)


def is_repository(source: str) -> bool:
    """Whether it has the form of a hub id, `owner/name`."""
    return _REPOSITORY.fullmatch(source) is not None


def list_files(
    connection: Connection,
    hub: str,
    repo: str,
    revision: str,
    *,
    choose: Callable[[list[str], str], list[str]],
) -> tuple[str, tuple[RemoteFile, ...]]:
    """Ask the hub for the commit of a branch, and for those of its files that `choose` names.

    Args:
        connection: to the hub.
        hub: its address, without a slash at the end.
        repo: `owner/name`.
        revision: a branch, tag or commit.
        choose: of the names in the repository; told the repository's name, too.

    Raises:
        HubUnreachable: no answer.
        DownloadError: the hub refuses or answers nonsense, or the repository has no such files.
    """
    url = f"{hub}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    answer = connection.get_json(url)
    try:
        commit: str = answer["sha"]
        if not COMMIT.fullmatch(commit):
            raise ValueError(f"commit {commit!r}")
        named: dict[str, Any] = {item["rfilename"]: item for item in answer["siblings"]}
        return commit, tuple(_remote_file(named[name]) for name in choose(list(named), repo))
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(f"{url} does not answer like a model hub: {error!r}") from error


def checkpoint_files(names: list[str], repo: str) -> list[str]:
    """One `.nemo` archive if there is one, else what a folder of safetensors needs.

    Raises:
        DownloadError: there is neither, or there are several archives.
    """
    archives = [name for name in names if _ARCHIVE.fullmatch(name)]
    own = f"{repo.partition('/')[2]}.nemo"
    if len(archives) == 1 or own in archives:
        return [own if own in archives else archives[0]]
    if archives:
        raise DownloadError(f"{repo} has several archives, none called {own}: {archives}")
    names = [name for name in names if _FOLDER_FILE.fullmatch(name)]
    if not any(name.endswith(".safetensors") for name in names):
        raise DownloadError(f"{repo} has neither a .nemo archive nor safetensors")
    return sorted(names)


def base_model_files(names: list[str], repo: str) -> list[str]:
    """What is read of a language model whose weights lie elsewhere.

    Raises:
        DownloadError: configuration or tokenizer are not there.
    """
    if missing := {"config.json", "tokenizer.json"} - set(names):
        raise DownloadError(f"{repo} has no {min(missing)}")
    return [name for name in BASE_MODEL_FILES if name in names]


def _remote_file(item: dict[str, Any]) -> RemoteFile:
    """One of the hub's `siblings`: large files have a SHA-256, small ones are git blobs."""
    large = item.get("lfs")
    size, digest = (large["size"], large["sha256"]) if large else (item["size"], item["blobId"])
    if not isinstance(size, int) or size < 0 or not _DIGEST.fullmatch(digest):
        raise ValueError(f"size and checksum of {item['rfilename']!r}")
    return RemoteFile(item["rfilename"], size, digest)
