"""One piece of audio that a segment engine is hearing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from stt_server.events import Audio, StreamEvent, Transcript


@dataclass(frozen=True, slots=True)
class Recognition:
    """One piece under way."""

    audio: Audio
    task: asyncio.Task[Transcript]
    is_piece: bool
    """Its words make an interim; else it is only the final, ahead of time."""

    @property
    def span(self) -> tuple[int, int]:
        return self.audio.start, self.audio.end


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks whose outcome nobody wants, and wait until they are done."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
    for task in ending:
        if not task.cancelled():
            task.exception()


async def next_event(inputs: AsyncIterator[StreamEvent]) -> StreamEvent | None:
    """The next event, None after the last one; to wait for beside something else."""
    return await anext(inputs, None)
