"""Checkpoints from a model hub: which files make one, fetched once, verified, found again.

Needs neither torch nor a hub client: the usual one neither continues a download that was stopped
nor checks what came. docs/models.md says what is checked here, and where files lie.
"""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nemo_lite.errors import DownloadError, UnknownModelError, UnsupportedError
from nemo_lite.listing import base_model_files, checkpoint_files, is_repository, list_files
from nemo_lite.registry import BASE_MODELS, RemoteFile, find
from nemo_lite.store import COMMIT, Store, size_of
from nemo_lite.transfer import DEFAULT_RETRY, Connection, HubUnreachable, Retry, Stage

logger = logging.getLogger(__name__)

ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is, in bytes of the whole checkpoint, which may have several files.

    `done_bytes` begins above 0 when a stopped download goes on, and falls back when a file has to
    be fetched again. While another process downloads the same, it is that one's progress.
    """

    stage: Stage
    file: str
    done_bytes: int
    total_bytes: int


def resolve(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str = ENDPOINT,
    offline: bool = False,
    token: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: Retry = DEFAULT_RETRY,
) -> Path:
    """The checkpoint `source` as a path, downloaded if need be.

    Args:
        source: a path to a `.nemo` file or a checkpoint's folder, a short name of the registry, or
            a hub id `owner/name`. What exists as a path is taken as a path.

    The other arguments and errors are those of `download`.

    Raises:
        UnknownModelError: `source` is none of these.
    """
    path = Path(source)
    if path.parts[:1] == ("~",):
        path = path.expanduser()
    if os.path.exists(path):  # unlike Path.exists, no error for what cannot be a path
        return path
    means_a_path = path.is_absolute() or path.suffix in (".nemo", ".safetensors")
    if isinstance(source, Path) or means_a_path or source.startswith("."):
        raise UnknownModelError(f"there is no checkpoint at {path.absolute()}")
    return download(
        source,
        revision=revision,
        cache_dir=cache_dir,
        endpoint=endpoint,
        offline=offline,
        token=token,
        progress=progress,
        retry=retry,
    )


def download(
    source: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    endpoint: str = ENDPOINT,
    offline: bool = False,
    token: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: Retry = DEFAULT_RETRY,
) -> Path:
    """Fetch a checkpoint into the cache unless it is there; several processes may do so at once.

    What is named by a registry name or by a commit never touches the network once it is in the
    cache. For a branch the hub is asked whether it moved; if it cannot be reached, the copy in the
    cache is used. A download that was stopped goes on where it was.

    Args:
        source: a short name of the registry, or a hub id `owner/name`.
        revision: a commit, branch or tag; None is the registry's commit, or `main` outside it.
        cache_dir: where checkpoints are kept; None is `~/.cache/nemo_lite`.
        endpoint: address of the hub or of a mirror.
        offline: use what the cache has, never the network.
        token: access token for gated and private repositories.
        progress: called from this thread, about once per mebibyte. What it raises stops the
            download, which can be resumed then.
        retry: how patiently a bad connection is borne.

    Returns:
        The `.nemo` file, or the folder of a checkpoint of several files.

    Raises:
        UnknownModelError: `source` is no registry name and has not the form of a hub id.
        UnsupportedError: a registry entry that this library cannot load yet.
        DownloadError: it could not be fetched, stored or verified, or offline it is not there.
    """
    wanted = _wanted(source, revision)
    return _obtain(wanted, cache_dir, endpoint, offline, token, progress, retry)


def base_model(
    repo: str,
    *,
    cache_dir: Path | None = None,
    endpoint: str = ENDPOINT,
    offline: bool = False,
    token: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    retry: Retry = DEFAULT_RETRY,
) -> Path:
    """Fetch configuration and tokenizer of a language model, never its weights, into the cache.

    Args:
        repo: a hub id `owner/name`: at the commit that the registry pins, else its branch `main`.

    The other arguments are those of `download`.

    Returns:
        A folder with `config.json`, `tokenizer.json` and, if there is one,
        `tokenizer_config.json`.

    Raises:
        UnknownModelError: `repo` has not the form of a hub id.
        DownloadError: they could not be fetched, stored or verified, or offline are not there.
    """
    if not is_repository(repo):
        raise UnknownModelError(f"{repo!r} is no hub id")
    commit, files = BASE_MODELS.get(repo, (None, ()))
    wanted = _Wanted(repo, commit or "main", commit, files, of_base_model=True)
    return _obtain(wanted, cache_dir, endpoint, offline, token, progress, retry)


def cached(
    source: str, *, revision: str | None = None, cache_dir: Path | None = None
) -> Path | None:
    """Where `source` lies in the cache, complete and verified; None if it does not.

    Raises:
        UnknownModelError, UnsupportedError, DownloadError: as `download`.
    """
    wanted = _wanted(source, revision)
    return _cached(Store(cache_dir, wanted.kept_as), wanted)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked for. `commit` is None for a branch or tag, `files` where the hub must list."""

    repo: str
    revision: str
    commit: str | None
    files: tuple[RemoteFile, ...]
    of_base_model: bool = False

    @property
    def kept_as(self) -> str:
        """The repository's name in the cache. A part of it must not pass for the whole."""
        return f"{self.repo}+base" if self.of_base_model else self.repo


def _wanted(source: str, revision: str | None) -> _Wanted:
    repo, name, files = source, revision or "main", ()
    try:
        entry = find(source)
    except UnknownModelError:
        if not is_repository(source):
            raise
    else:
        if entry.loader is None:
            raise UnsupportedError(f"{entry.name} ({entry.repo}) cannot be loaded by this version")
        repo, name = entry.repo, revision or entry.revision
        files = entry.files if name == entry.revision else ()
    return _Wanted(repo, name, name if COMMIT.fullmatch(name) else None, files)


def _cached(store: Store, wanted: _Wanted) -> Path | None:
    commit = wanted.commit or store.commit_of(wanted.revision)
    return None if commit is None else store.checkpoint(commit)


def _obtain(
    wanted: _Wanted,
    cache_dir: Path | None,
    endpoint: str,
    offline: bool,
    token: str | None,
    progress: Callable[[Progress], None] | None,
    retry: Retry,
) -> Path:
    store = Store(cache_dir, wanted.kept_as)
    there = _cached(store, wanted)
    if there is not None and (offline or wanted.commit is not None):
        return there
    if offline:
        raise DownloadError(f"{wanted.repo} is not in {store.path} and downloading is switched off")
    return _pull(wanted, store, endpoint.rstrip("/"), token, retry, progress)


def _pull(
    wanted: _Wanted,
    store: Store,
    hub: str,
    token: str | None,
    retry: Retry,
    progress: Callable[[Progress], None] | None,
) -> Path:
    """Ask the hub what there is, fetch it, and remember what a branch was."""
    if not hub.startswith(("http://", "https://")):
        raise DownloadError(f"the hub's address {hub!r} does not begin with https://")
    connection, commit, files = Connection(token=token, retry=retry), wanted.commit, wanted.files
    try:
        if commit is None or not files:
            choose = base_model_files if wanted.of_base_model else checkpoint_files
            commit, files = list_files(connection, hub, wanted.repo, wanted.revision, choose=choose)
    except HubUnreachable as error:
        there = _cached(store, wanted)
        if there is None:
            raise
        logger.warning("hub.unreachable", extra={"source": wanted.repo, "why": str(error)})
        return there
    total = sum(file.size_bytes for file in files)

    def tell(stage: Stage, file: str, done: int) -> None:
        if progress is not None:
            progress(Progress(stage, file, done, total))

    def waiting(done: int) -> None:
        tell(Stage.WAITING, "", done)

    def at(file: RemoteFile) -> str:
        return f"{hub}/{file.elsewhere or f'{wanted.repo}/resolve/{commit}/{quote(file.name)}'}"

    try:
        with store.lock(commit, stall_s=retry.stall_s, waiting=waiting):
            if store.checkpoint(commit) is None:
                _fill(store.partial(commit), files, connection, at, tell)
                store.complete(commit)
            if wanted.commit is None:
                store.remember(wanted.revision, commit)
    except OSError as error:
        why = error.strerror or repr(error)
        raise DownloadError(f"{wanted.repo} cannot be kept in {store.path}: {why}") from error
    return store.path_of(commit)


def _fill(
    folder: Path,
    files: tuple[RemoteFile, ...],
    connection: Connection,
    at: Callable[[RemoteFile], str],
    tell: Callable[[Stage, str, int], None],
) -> None:
    """Bring into the folder what is missing of the files, each under its name when verified."""
    missing = sum(file.size_bytes for file in files) - size_of(folder)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise DownloadError(
            f"{missing:,} bytes are missing and the disk of {folder} has {free:,} left"
        )
    done = 0
    for file in files:
        target = folder / file.name
        if not target.exists():
            part = folder / f"{file.name}.part"
            part.parent.mkdir(exist_ok=True)
            connection.fetch(
                at(file),
                file,
                part,
                report=lambda stage, have, f=file, d=done: tell(stage, f.name, d + have),
            )
            part.replace(target)
        done += file.size_bytes
