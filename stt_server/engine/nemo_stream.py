"""One session's stream as the event loop sees it: a slot of the worker's batch."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from stt_server.engine.base import StreamOptions
from stt_server.engine.nemo_messages import (
    Asking,
    Close,
    Command,
    EndTurn,
    Heard,
    HeardTurn,
    HeardWord,
    Look,
    Open,
    Pause,
    Push,
    Report,
    Resume,
    TurnMark,
)
from stt_server.engine.nemo_positions import Clock, HeldSilence
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

    def settle(self, stream: "NemoStream", key: int) -> "tuple[Room, int]":
        """Before a stream begins: where, and its name there."""
        ...

    def renew(self, stream: "NemoStream", key: int) -> int: ...

    def release(self, key: int) -> None: ...


@dataclass(slots=True)
class _Pause:
    """What is known while the worker has a copy of the stream as well."""

    transcript: Transcript
    mark: TurnMark | None
    received: int
    """Samples that the worker has of the copy."""
    real: int
    """Where the copy would be had it heard nothing but the session's audio."""
    silence: HeldSilence = field(default_factory=HeldSilence)

    def told(self) -> Transcript:
        """The transcript; the mark counts when there has been silence up to where it stands."""
        certain = self.mark is not None and self.mark.at < self.real
        return replace(
            self.transcript, ends_turn=self.mark.confidence if self.mark and certain else None
        )


class NemoStream:
    """A `SpeculativeStream` and `AnnouncingStream`: one slot of the worker's batch.

    The audio of turns alone reaches the model, and of a pause only its beginning and end; unless
    it `hears_silence`.
    """

    def __init__(
        self, engine: Room, key: int, options: StreamOptions, *, hears_silence: bool = False
    ) -> None:
        self._engine: Room = engine
        self._key, self._options = key, options
        self.hears_silence = hears_silence
        self.on_news: Callable[[], None] | None = None
        self._opened = self._closed = False
        self._begin()
        self._waiting: tuple[Command, asyncio.Future[Heard]] | None = None
        self._error: TranscriptionError | Overloaded | None = None

    def _begin(self) -> None:
        self._pushed = self._decoded = self._end = 0
        self._turn_start: int | None = None
        self._clock = Clock()
        self._news: Heard | None = None
        self._pause: _Pause | None = None
        self._heard: tuple[HeardWord, ...] = ()
        """What the last transcript was made of."""
        self._words: tuple[Word, ...] = ()

    async def push(self, audio: Audio) -> Transcript | None:
        self._raise_failure()
        if self._pause is not None:
            self._pause.real += len(audio.samples)
            if not self.hears_silence:
                self._pause.silence.keep(audio)
                return None
        await self._send(audio)
        return self.take_news()

    def take_news(self) -> Transcript | None:
        if self._turn_start is None or self._pause is not None or self._news is None:
            return None
        news, self._news = self._news, None
        return self._transcript(news.turn)

    async def pause(self) -> Transcript:
        self._raise_failure()
        if self._turn_start is None:
            return Transcript()
        if self._pause is None:
            heard = await self._answer(self._asking())
            transcript = self._transcript(heard.turn, complete=True)
            self._pause = _Pause(transcript, heard.turn.mark, heard.received, self._pushed)
        elif self._pause.mark is None:
            await self._listen_on(self._pause)
        self._news = None
        return self._pause.told()

    def _asking(self) -> Asking:
        return Look(self._key, ends_turn=False) if self.hears_silence else Pause(self._key)

    async def _listen_on(self, pause: _Pause) -> None:
        """Ask again, for the mark alone; the copy hears what came since."""
        silence = pause.silence.take_unheard()
        if len(silence):
            self._engine.post(Push(self._key, silence))
        heard = await self._answer(self._asking())
        pause.mark, pause.received = heard.turn.mark, heard.received
        pause.transcript = replace(pause.transcript, tokens=heard.turn.tokens)

    async def resume(self) -> None:
        self._raise_failure()
        pause, self._pause = self._pause, None
        if pause is None or self.hears_silence:
            return
        self._engine.post(Resume(self._key))
        self._decoded = min(self._decoded, self._pushed)
        hangover = pause.silence.hangover()
        if hangover is not None:
            await self._send(hangover)

    async def end_turn(self) -> Transcript:
        self._raise_failure()
        pause, self._pause = self._pause, None
        if self._turn_start is None:
            return Transcript()
        if pause is not None and not self.hears_silence:
            self._engine.post(EndTurn(self._key))
            transcript, received = pause.told(), pause.received
        else:
            asking: Asking = EndTurn(self._key)
            if self.hears_silence:
                asking = Look(self._key, ends_turn=True)
            heard = await self._answer(asking)
            transcript = self._transcript(heard.turn, complete=True)
            received = heard.received
        self._news, self._turn_start = None, None
        self._heard, self._words = (), ()
        self._pushed = self._pushed if self.hears_silence else received
        self._clock.forget(self._pushed)
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
            if self.on_news is not None:
                self.on_news()
            return
        command, answer = self._waiting
        answered = heard.is_answer or (
            isinstance(command, Report) and heard.decoded >= command.decoded
        )
        if answered and not answer.done():
            answer.set_result(heard)

    def fail(self, error: TranscriptionError | Overloaded) -> None:
        """The worker is gone, and the turn's words with it."""
        is_idle = self._turn_start is None and self._waiting is None
        if is_idle and isinstance(error, TranscriptionError):
            self._begin_anew()  # between turns nothing is lost
            return
        self._error = error
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(error)

    async def _send(self, audio: Audio) -> None:
        if not self._opened:
            self._engine, self._key = self._engine.settle(self, self._key)
            await self._engine.running()
            self._engine.post(Open(self._key, self._options.lookahead_ms, self._options.language))
            self._opened = True
        if self._turn_start is None and (audio.speech or not self.hears_silence):
            self._turn_start = audio.start
        self._clock.at(self._pushed, audio.start)
        self._engine.post(Push(self._key, audio.samples))
        self._pushed += len(audio.samples)
        self._end = audio.end
        if self._pushed - self._decoded > BACKLOG_SAMPLES:
            # The backlog that is left is more than a chunk: the worker need not wait for audio.
            await self._answer(Report(self._key, self._pushed - BACKLOG_SAMPLES))

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
            self._begin_anew()
        raise error

    def _begin_anew(self) -> None:
        self._opened = False
        self._begin()
        if not self._closed:
            self._key = self._engine.renew(self, self._key)

    def _transcript(self, turn: HeardTurn, *, complete: bool = False) -> Transcript:
        words = self._convert(turn.words)
        # Greedy decoding takes nothing back, but the last word may get another syllable.
        return Transcript(
            words,
            stable=len(words) if complete else max(0, len(words) - 1),
            language=turn.language,
            tokens=turn.tokens,
            ends_turn=turn.mark.confidence if turn.mark else None,
        )

    def _convert(self, heard: tuple[HeardWord, ...]) -> tuple[Word, ...]:
        """With the session's times. What the batch has settled are the same objects each time, in
        front of all others: however long the turn is, only its last words are converted again."""
        start = self._turn_start or 0

        def session(sample: int) -> int:
            return max(start, min(self._clock.session(sample), self._end))

        done = min(len(self._heard), len(heard))
        while done and self._heard[done - 1] is not heard[done - 1]:
            done -= 1
        fresh = (
            Word(word.text, session(word.start), session(word.end), word.confidence)
            for word in heard[done:]
        )
        self._heard, self._words = heard, (*self._words[:done], *fresh)
        return self._words
