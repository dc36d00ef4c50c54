"""`stt-server models`: what checkpoints there are, and having them here before they are needed."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from nemo_lite import hub
from nemo_lite.errors import DownloadError, UnknownModelError, UnsupportedError
from nemo_lite.registry import REGISTRY, ModelEntry
from stt_server.log import configure_logging
from stt_server.settings import LogFormat, ModelSettings, Settings

_PIPE_COLUMNS = 200


def run(action: str, names: Sequence[str], settings: Settings) -> int:
    """Do `list`, `pull` or `path`; returns the exit code. Results on stdout, the rest on stderr."""
    configure_logging("WARNING", as_json=settings.log.format is LogFormat.JSON)
    models = settings.models
    try:
        if action == "list":
            return _list(models)
        for name in names:  # a typing error is told before hours of downloading
            hub.cached(name, cache_dir=models.cache_dir)
        return _pull(names, models) if action == "pull" else _path(names, models)
    except (UnknownModelError, UnsupportedError) as error:
        _complain(str(error))
        return 2
    except DownloadError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("stopped; the same command goes on with it")
        return 130


def _list(models: ModelSettings) -> int:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    table.caption = "\n– cannot be loaded by this version yet"
    for column in ("name", "here", "size", "licence", "what"):
        table.add_column(column, no_wrap=column != "what")
    for entry in REGISTRY.values():
        size = _size(entry.size_bytes) if entry.files else ""
        table.add_row(entry.name, _here(entry, models), size, entry.licence, entry.description)
    # On a terminal rich fits the table to its width; whoever reads a pipe wants a line per model.
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, highlight=False).print(table)
    return 0


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes > 5e7 else f"{size_bytes / 1e6:.0f} MB"


def _here(entry: ModelEntry, models: ModelSettings) -> str:
    if entry.loader is None:
        return "–"
    return "yes" if hub.cached(entry.name, cache_dir=models.cache_dir) else "no"


def _path(names: Sequence[str], models: ModelSettings) -> int:
    missing = False
    for name in names:
        path = hub.cached(name, cache_dir=models.cache_dir)
        if path is None:
            _complain(f"{name} is not on this machine: stt-server models pull {name}")
            missing = True
        else:
            print(path)  # noqa: T201
    return 1 if missing else 0


def _pull(names: Sequence[str], models: ModelSettings) -> int:
    """One after the other; one that fails does not keep the others from being tried."""
    failed = False
    for name in names:
        try:
            print(_download(name, models), flush=True)  # noqa: T201
        except DownloadError as error:
            _complain(str(error))
            failed = True
    return 1 if failed else 0


def _download(name: str, models: ModelSettings) -> str:
    """Download with a progress bar on stderr; gives the path."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task(name, total=None, start=False)

    def show(progress: hub.Progress) -> None:
        if not bar.tasks[0].started:
            # What an earlier run left is no speed: the clock starts with it in place.
            bar.update(task, completed=progress.done_bytes)
            bar.start_task(task)
        bar.update(
            task,
            description=f"{name} {progress.stage}",
            completed=progress.done_bytes,
            total=progress.total_bytes,
        )

    with bar:
        path = hub.download(
            name,
            cache_dir=models.cache_dir,
            endpoint=models.endpoint,
            offline=models.offline,
            token=models.token.get_secret_value() if models.token else None,
            progress=show,
        )
        bar.update(task, description=f"{name} ready")
    return str(path)


def _complain(text: str) -> None:
    print(f"stt-server: {text}", file=sys.stderr)  # noqa: T201
