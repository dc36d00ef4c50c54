"""Checkpoints brought here, as the settings say, for an engine to load; the log shows how far."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nemo_lite import hub
from nemo_lite.errors import DownloadError
from stt_server.settings import ModelSettings

logger = logging.getLogger(__name__)

TELL_EVERY_S = 5.0


class Downloads:
    """Fetches on the caller's thread."""

    def __init__(self, settings: ModelSettings, is_stopping: Callable[[], bool]) -> None:
        """
        Args:
            is_stopping: True ends a download; it can be resumed.
        """
        self._settings = settings
        self._is_stopping = is_stopping
        self._told_at = float("-inf")
        self.base: Path | None = None
        """The base model that was fetched last."""

    def checkpoint(self, source: str) -> Path:
        """A name of the registry, hub id or path, as a path.

        Raises:
            NemoLiteError: it cannot be had.
        """
        return hub.resolve(source, **self._arguments(source))

    def base_model(self, repo: str) -> Path:
        """Configuration and tokenizer of a language model on the hub; gives their folder.

        Raises:
            NemoLiteError: they cannot be had.
        """
        self.base = hub.base_model(repo, **self._arguments(repo))
        return self.base

    def _arguments(self, source: str) -> dict[str, Any]:
        settings = self._settings
        return {
            "cache_dir": settings.cache_dir,
            "endpoint": settings.endpoint,
            "offline": settings.offline,
            "token": settings.token.get_secret_value() if settings.token else None,
            "progress": partial(self._tell, source),
        }

    def _tell(self, source: str, progress: hub.Progress) -> None:
        if self._is_stopping():
            raise DownloadError("the server is shutting down")
        if time.monotonic() - self._told_at < TELL_EVERY_S:
            return
        self._told_at = time.monotonic()
        done, total = progress.done_bytes, progress.total_bytes
        logger.info(
            "model.downloading",
            extra={
                "source": source,
                "stage": progress.stage.value,
                "percent": 100 * done // total if total else 0,
                "done_mb": done // 10**6,
                "total_mb": total // 10**6,
            },
        )
