"""One session's stream as the event loop sees it: a slot of the worker's batch."""

import asyncio
import bisect
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from stt_server.engine.base import StreamOptions
from stt_server.engine.nemo_messages import Close, Command, EndTurn, Heard, Open, Push, Report
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import SAMPLE_RATE, Audio, Transcript, Word

BACKLOG_SAMPLES = 2 * SAMPLE_RATE
"""Audio of one stream that may wait for the worker before its sender does."""
ANSWER_S = 30.0
"""A stream that gets no answer for so long has failed."""


class Room(Protocol):
    """What a stream needs of its engine."""

    def post(self, command: Command) -> None:
        """Hand a command to the worker; raises `TranscriptionError` if there is none now."""
        ...

    async def running(self) -> None:
        """Return once there is a worker; raises `TranscriptionError` if that takes too long."""
        ...

    def renew(self, stream: "NemoStream", key: int) -> int: ...

    def release(self, key: int) -> None: ...


@dataclass(slots=True)
class _Clock:
    """Where samples of the worker's stream are in the session: silence between turns is left out,
    and what completes a chunk is added."""

    mine: list[int] = field(default_factory=lambda: [0])
    theirs: list[int] = field(default_factory=lambda: [0])

    def at(self, received: int, start: int) -> None:
        """The worker's sample `received` is the session's sample `start`."""
        if received - self.mine[-1] == start - self.theirs[-1]:
            return
        self.mine.append(received)
        self.theirs.append(start)

    def session(self, sample: int) -> int:
        """The session's position of one of the worker's."""
        index = max(0, bisect.bisect_right(self.mine, sample) - 1)
        at = self.theirs[index] + sample - self.mine[index]
        after = self.theirs[index + 1] if index + 1 < len(self.theirs) else at
        return max(0, min(at, after))

    def forget(self, before: int) -> None:
        """Drop what only samples before this one need."""
        keep = max(0, bisect.bisect_right(self.mine, before) - 1)
        del self.mine[:keep], self.theirs[:keep]


class NemoStream:
    """A `RecognitionStream`: one slot of the worker's batch."""

    def __init__(self, engine: Room, key: int, options: StreamOptions) -> None:
        self._engine, self._key, self._options = engine, key, options
        self._opened = self._closed = False
        self._pushed = 0
        self._decoded = 0
        self._turn_start: int | None = None
        self._clock = _Clock()
        self._news: Heard | None = None
        self._waiting: tuple[Command, asyncio.Future[Heard]] | None = None
        self._error: TranscriptionError | Overloaded | None = None

    async def push(self, audio: Audio) -> Transcript | None:
        self._raise_failure()
        if not self._opened:
            await self._engine.running()
            self._engine.post(Open(self._key, self._options.lookahead_ms, self._options.language))
            self._opened = True
        if self._turn_start is None:
            self._turn_start = audio.start
        self._clock.at(self._pushed, audio.start)
        self._engine.post(Push(self._key, audio.samples))
        self._pushed += len(audio.samples)
        if self._pushed - self._decoded > BACKLOG_SAMPLES:
            # The backlog that is left is more than a chunk: the worker need not wait for audio.
            await self._answer(Report(self._key, self._pushed - BACKLOG_SAMPLES))
        news, self._news = self._news, None
        return None if news is None else self._transcript(news)

    async def end_turn(self) -> Transcript:
        self._raise_failure()
        if not self._opened:
            return Transcript()
        heard = await self._answer(EndTurn(self._key))
        transcript = self._transcript(heard)
        self._news, self._pushed, self._turn_start = None, heard.received, None
        self._clock.forget(heard.received)
        return transcript

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._engine.release(self._key)
        if self._opened and self._error is None:
            with suppress(TranscriptionError):  # no worker: no place to give back
                self._engine.post(Close(self._key))

    def deliver(self, heard: Heard) -> None:
        """What the worker found; on the event loop."""
        self._decoded, self._news = heard.decoded, heard
        if self._waiting is None:
            return
        command, answer = self._waiting
        answered = heard.is_final or (
            isinstance(command, Report) and heard.decoded >= command.decoded
        )
        if answered and not answer.done():
            answer.set_result(heard)

    def fail(self, error: TranscriptionError | Overloaded) -> None:
        """The worker is gone, and the turn's words with it."""
        if not self._opened and isinstance(error, TranscriptionError):
            return
        self._error = error
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(error)

    async def _answer(self, command: Command) -> Heard:
        answer: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self._waiting = command, answer
        try:
            self._engine.post(command)
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            self._error = TranscriptionError("the model does not answer, try again")
            with suppress(TranscriptionError):
                self._engine.post(Close(self._key))
            self._raise_failure()
            raise
        except (TranscriptionError, Overloaded):
            self._raise_failure()
            raise
        finally:
            self._waiting = None

    def _raise_failure(self) -> None:
        """Say once what happened; what is pushed next begins anew."""
        error = self._error
        if error is None:
            return
        if isinstance(error, TranscriptionError):
            self._error = None
            self._opened, self._pushed, self._decoded = False, 0, 0
            self._clock, self._news, self._turn_start = _Clock(), None, None
            if not self._closed:
                self._key = self._engine.renew(self, self._key)
        raise error

    def _transcript(self, heard: Heard) -> Transcript:
        start = self._turn_start or 0

        def session(sample: int) -> int:
            return max(start, self._clock.session(sample))

        words = tuple(
            Word(word.text, session(word.start), session(word.end), word.confidence)
            for word in heard.words
        )
        # Greedy decoding takes nothing back, but the last word may get another syllable.
        stable = len(words) if heard.is_final else max(0, len(words) - 1)
        return Transcript(words, stable=stable, language=heard.language)
