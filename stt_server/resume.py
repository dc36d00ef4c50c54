"""A session's transport that outlives its connections."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from stt_server.errors import ClientTooSlow, ResumeFailed, ServerShutdown
from stt_server.pipeline import Progress
from stt_server.protocols.base import Message
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_messages import ResumedMessage
from stt_server.protocols.native_resume import Comeback
from stt_server.resume_replay import ReplayBuffer
from stt_server.resume_tokens import ResumeTokens
from stt_server.session import ClientGone, Reattached, Transport
from stt_server.settings import ResumeSettings

logger = logging.getLogger(__name__)


class Connection(Transport, Protocol):
    """A transport that tells how it ended, so that another one may take its place."""

    async def receive(self) -> Message | None: ...

    @property
    def may_return(self) -> bool:
        """Neither side has ended it on purpose."""
        ...

    @property
    def lost_at(self) -> float:
        """When it was lost, on the session's clock."""
        ...

    def leave(self, code: int, reason: str) -> None:
        """End it now, without waiting for the peer."""
        ...

    def probe(self, on_answer: Callable[[], None]) -> None:
        """Have `on_answer` called once the peer has read everything sent so far."""
        ...

    async def wait_until_lost(self) -> bool:
        """Whether the peer then had answered a close, and so had read all that came before, or
        does not want it."""
        ...


class _Link:
    """One of the connections, and how far it is."""

    def __init__(self, connection: Connection, comeback: Comeback) -> None:
        self.connection = connection
        self.comeback = comeback
        self.next_number = comeback.received
        self.sending = asyncio.Lock()


class ResumableTransport:
    """The connections of one native session, one after the other, as one `Transport`.

    Without the client's wish to resume it is its first connection and nothing more. With it,
    messages are numbered and kept; while no connection is there, they wait, and `receive` waits
    for the next one. It is the session's watchdog that ends the waiting, by `is_gone`.
    """

    def __init__(
        self,
        connection: Connection,
        session_id: str,
        codec: NativeCodec,
        tokens: ResumeTokens,
        progress: Progress,
        *,
        settings: ResumeSettings,
        send_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._session_id = session_id
        self._codec = codec
        self._tokens = tokens
        self._progress = progress
        self._window_s = settings.window_s
        self._send_timeout_s = send_timeout_s
        self._clock = clock
        self._kept = ReplayBuffer(settings.buffer_kib * 1_024)
        self._link = self._read_link = _Link(connection, Comeback(0, 0, 0))
        self._attached = asyncio.Event()  # pulsed
        self._sent = asyncio.Event()  # pulsed
        self._closing: tuple[int, str] | None = None

    @property
    def is_gone(self) -> bool:
        connection = self._link.connection
        if not connection.is_gone:
            return False
        away_s = self._clock() - connection.lost_at
        return not (self._codec.resumes and connection.may_return and away_s < self._window_s)

    @property
    def is_detached(self) -> bool:
        return self._codec.resumes and self._link.connection.is_gone

    @property
    def is_half_closed(self) -> bool:
        return self._link.connection.is_half_closed

    @property
    def pinged_at(self) -> float:
        return self._link.connection.pinged_at

    async def receive(self) -> Message | Reattached | None:
        link = self._read_link
        message = await link.connection.receive()
        if message is not None:
            return message
        if self._link is link:
            if not (self._codec.resumes and link.connection.may_return):
                return None
            logger.info("session.detached")
            await self._next_link(link)
        self._read_link = self._link
        comeback = self._link.comeback
        self._codec.repeat(comeback.controls)
        return Reattached(comeback.acked)

    async def send(self, message: Message) -> None:
        if not self._codec.resumes:
            await self._link.connection.send(message)
            return
        await self._make_room()
        self._kept.add(message, ack_samples=self._progress.taken)
        if self._link.sending.locked():
            return  # who repeats messages there comes to this one, too
        try:
            await self._pump(self._link)
        except ClientGone:
            if self.is_gone:
                raise

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye; a client that may come back is given the time to, and gets all of it."""
        self._closing = code, reason
        if not self._codec.resumes:
            await self._link.connection.close(code, reason)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._window_s):
                await self._finish(self._link)
                while not await self._has_read_all():
                    await self._next_link(self._link)

    def admit(self, token: str, comeback: Comeback) -> None:
        """Whether a client may go on in this session with `token` and from there.

        Raises:
            ResumeFailed: it may not.
        """
        if not self._tokens.accepts(token) or (self._closing is None and self.is_gone):
            raise ResumeFailed("no session can be resumed with this token")
        if comeback.acked > self._progress.taken or comeback.controls > self._codec.controls:
            raise ResumeFailed("the session has not received so much")
        if not self._kept.can_repeat_from(comeback.received):
            raise ResumeFailed("messages that are missing are not kept any more")

    async def attach(self, connection: Connection, token: str, comeback: Comeback) -> None:
        """Go on over `connection`, for a client that `admit` let in; returns when it is lost."""
        link = _Link(connection, comeback)
        async with link.sending:  # free as yet, so nothing happens in between
            old, self._link = self._link, link
            self._kept.forget(comeback.received)
            resumed = ResumedMessage(
                session_id=self._session_id,
                resume_token=self._tokens.use(token),
                ack_samples=self._progress.taken,
            )
            _pulse(self._attached)
            old.connection.leave(ResumeFailed.close_code, "resumed over another connection")
            logger.info("session.resumed", extra={"repeated": resumed.ack_samples - comeback.acked})
            with suppress(ClientGone):
                await self._send_over(link, resumed.model_dump_json(by_alias=True))
                connection.probe(lambda: self._confirm(link))
        await self._finish(link)
        await connection.wait_until_lost()

    def release(self) -> None:
        """Give back what is left of a session that has ended."""
        if self._closing is None or self._codec.resumes:
            code, reason = self._closing or (ServerShutdown.close_code, "the session was ended")
            self._link.connection.leave(code, reason)

    def _confirm(self, link: _Link) -> None:
        if self._link is link:
            self._tokens.confirm()

    async def _make_room(self) -> None:
        """Wait while a client that is there has too much to read of what it missed."""
        while not self.is_detached:
            link = self._link
            self._kept.shrink(link.next_number)
            if not (self._kept.is_full and link.sending.locked()):
                return
            await self._sent.wait()
        if self._kept.is_full:
            raise ClientTooSlow("too much was to be said while the client was away")

    async def _has_read_all(self) -> bool:
        """Once the last connection so far is lost."""
        while True:
            link = self._link
            has_read_all = await link.connection.wait_until_lost()
            if self._link is link:
                return has_read_all

    async def _next_link(self, link: _Link) -> None:
        while self._link is link:
            await self._attached.wait()

    async def _finish(self, link: _Link) -> None:
        """Send what is to be sent over `link`, the goodbye too if it is time for that."""
        with suppress(ClientGone):
            await self._pump(link)
            if self._closing is not None and self._link is link:
                await link.connection.close(*self._closing)

    async def _pump(self, link: _Link) -> None:
        """Send what `link` has not been given yet."""
        async with link.sending:
            while self._link is link and (found := self._kept.first_from(link.next_number)):
                number, text = found
                link.next_number = number + 1
                await self._send_over(link, text)

    async def _send_over(self, link: _Link, text: str) -> None:
        """Raises `ClientGone` also for a client that reads nothing; it may come back."""
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await link.connection.send(text)
        except TimeoutError as error:
            link.connection.leave(ClientTooSlow.close_code, "messages were not read in time")
            raise ClientGone from error
        finally:
            _pulse(self._sent)


def _pulse(event: asyncio.Event) -> None:
    """Wake everybody who waits; they look again for what they wait for."""
    event.set()
    event.clear()
