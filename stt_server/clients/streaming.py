"""Audio from a file or a microphone through a client, with its text to a display and to files."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, cast

from stt_server.clients.errors import (
    ClientError,
    ConnectionLost,
    NoAudioDevice,
    UnreadableAudio,
    UnreadableMessage,
)
from stt_server.clients.file import AudioFile, RealTime
from stt_server.clients.interrupt import on_interrupt
from stt_server.clients.levels import level_db
from stt_server.clients.lines import Display
from stt_server.clients.messages import ServerMessage
from stt_server.clients.microphone import Microphone
from stt_server.clients.transcript import Transcript
from stt_server.protocols.native_messages import ErrorResponse, WarningMessage

_Sender: TypeAlias = Callable[[], Awaitable[None]]

_PACKET_S = 0.1
_FAST_PACKET_S = 1.0
_LAST_TEXT_S = 10.0
"""How long the last text may take after Ctrl-C."""


class Session(Protocol):
    """What is needed of a client, whatever protocol it speaks."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    async def send(self, audio: bytes) -> None: ...
    async def finish(self) -> Any: ...
    async def close(self) -> None: ...
    def texts(self) -> AsyncIterator[str]: ...
    def parse(self, text: str) -> ServerMessage: ...


class Streaming:
    """One session of the command line; sends from one source and is then used up.

    Attributes:
        transcript: what was said.
        failed: whether the server reported an error or a file could not be written.
    """

    def __init__(self, client: Session, display: Display, *, save: Sequence[Path]) -> None:
        self.transcript = Transcript()
        self.failed = False
        self._client = client
        self._display = display
        self._save_paths = save
        self._is_live = True
        self._source_error: ClientError | None = None

    async def send_file(self, file: AudioFile, *, clock: RealTime | None) -> None:
        """Stream a file, without a clock as fast as it can be sent, and wait for its last text.

        Raises:
            ClientError: what went wrong; text that came before it is shown and saved.
        """
        self._is_live = clock is not None
        await self._run(partial(self._send_file, file, clock))

    async def send_microphone(self, microphone: Microphone) -> None:
        """Stream a microphone until Ctrl-C, then wait a short time for the last text.

        Raises:
            ClientError: what went wrong; text that came before it is shown and saved.
        """
        await self._run(partial(self._record, microphone))

    async def _run(self, send: _Sender) -> None:
        try:
            async with self._client:
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._show())
                        tasks.create_task(self._send(send))
                finally:
                    self._save()
        except ExceptionGroup as group:
            raise _first(group) from None
        if self._source_error is not None:
            raise self._source_error  # only now: it must not keep the last text from being shown

    async def _send(self, send: _Sender) -> None:
        try:
            await send()
        except (ConnectionLost, UnreadableMessage):
            return  # `_show` meets the same end, after the messages that came before it

    async def _send_file(self, file: AudioFile, clock: RealTime | None) -> None:
        try:
            await self._send_packets(file, clock)
        except UnreadableAudio as error:
            self._source_error = error
        self._display.finishing()
        await self._client.finish()

    async def _send_packets(self, file: AudioFile, clock: RealTime | None) -> None:
        second = file.format.sample_rate * file.format.frame_bytes
        sent = 0
        for packet in file.packets(_PACKET_S if clock else _FAST_PACKET_S):
            if clock is not None:
                await clock.until((sent + len(packet)) / second)
            await self._client.send(packet)
            sent += len(packet)
            self._display.sent(sent / second)

    async def _record(self, microphone: Microphone) -> None:
        second = microphone.format.sample_rate * microphone.format.frame_bytes
        loop = asyncio.get_running_loop()
        sent, lost_s, interrupted = 0, 0.0, False

        def stop() -> None:
            nonlocal interrupted
            interrupted = True
            microphone.stop()
            self._display.finishing()
            deadline.reschedule(loop.time() + _LAST_TEXT_S)

        try:
            async with asyncio.timeout(None) as deadline, microphone:
                self._display.note(f"recording from {microphone.name}; Ctrl-C stops")
                with on_interrupt(stop):
                    async for packet in microphone.packets():
                        await self._client.send(packet)
                        sent += len(packet)
                        self._display.sent(sent / second, level_db(packet))
                        if microphone.lost_s > lost_s:
                            lost_s = microphone.lost_s
                            self._display.note(f"too slow: {lost_s:.1f} s of audio lost so far")
                    await self._client.finish()
        except TimeoutError:
            self._display.note("the last text did not come in time")
            await self._client.close()
        if not interrupted:
            self._source_error = NoAudioDevice("the microphone went away")

    async def _show(self) -> None:
        async for text in self._client.texts():
            message = self._client.parse(text)
            self.transcript.add(message)
            self._display.message(message, text)
            match message:
                case ErrorResponse():
                    self.failed = True
                    self._display.note(f"{message.error} ({message.code})")
                case WarningMessage(code="BACKLOG") if self._is_live:
                    self._display.note(f"the server is {message.seconds:.0f} s of audio behind")
                case _:
                    pass

    def _save(self) -> None:
        for path in self._save_paths:
            try:
                self.transcript.save(path)
            except OSError as error:
                self.failed = True
                self._display.note(f"cannot write {path}: {error.strerror or error}")


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The failure that came first; what followed is its consequence."""
    error = group.exceptions[0]
    if isinstance(error, ExceptionGroup):
        return _first(cast(ExceptionGroup[Exception], error))
    return error
