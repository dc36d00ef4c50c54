"""One piece of audio that a segment engine is hearing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from stt_server.engine.base import AnnouncingStream
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


async def news_before(
    arriving: asyncio.Task[StreamEvent | None], stream: AnnouncingStream
) -> Transcript | None:
    """Wait for the next event or for news of the stream, whichever comes first; the news."""
    # What came while the last events were passed on has been announced to nobody.
    if (news := stream.take_news()) is not None:
        return news
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(_: object = None) -> None:
        if not woken.done():
            woken.set_result(None)

    stream.on_news = wake
    arriving.add_done_callback(wake)
    try:
        await woken
    finally:
        stream.on_news = None
        arriving.remove_done_callback(wake)
    return stream.take_news()
