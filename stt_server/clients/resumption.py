"""Coming back to a session after its connection was lost; `docs/protocols/resume.md`."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from stt_server.clients.errors import ConnectionLost, Refused, ServerUnreachable
from stt_server.clients.messages import Numbers, ServerMessage
from stt_server.clients.outgoing import Outgoing
from stt_server.clients.unacknowledged import Unacknowledged
from stt_server.clients.window import AckWindow
from stt_server.errors import ErrorCode
from stt_server.protocols.native_messages import (
    ErrorResponse,
    PongMessage,
    ReadyMessage,
    ResumedMessage,
)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_PERHAPS_SOON = frozenset({502, 503, 504})
"""HTTP statuses of a server, or a proxy before it, that is about to start."""
_LOST_CODES = frozenset({1001, 1006, 1011})
"""Closes that may leave a session behind: none, one by a keepalive, and one by something between
the two that goes away."""

Connect = Callable[[Mapping[str, str], float], Awaitable[ClientConnection]]
"""Opens the endpoint with these query parameters, within so many seconds."""


class Resumption:
    """What a client must know to come back to its session. Pure: no I/O, no clock.

    Attributes:
        kept: What it would have to send again.
        window_s: How long the server waits for it.
        is_repeating: What is kept is being sent again from where `query` said that it begins;
            acknowledgements must not move that.
    """

    def __init__(self, window: AckWindow, frame_bytes: int) -> None:
        self.kept = Unacknowledged(frame_bytes)
        self.window_s = 0.0
        self.is_repeating = False
        self._window = window
        self._frame_bytes = frame_bytes
        self._token: str | None = None
        self._received = self._acked = 0

    @property
    def is_offered(self) -> bool:
        return self._token is not None

    @property
    def place(self) -> tuple[int, int]:
        """Samples that the server has, and its messages that came: more is progress."""
        return self._acked, self._received

    def query(self) -> dict[str, str]:
        """Parameters of the URL to come back by."""
        assert self._token is not None
        return {
            "resume_token": self._token,
            "acked": str(self.kept.acked),
            "controls": str(self.kept.controls),
            "received": str(self._received),
        }

    def take(self, text: str, message: ServerMessage) -> bool:
        """Learn from a message; whether it is one that has not come before."""
        numbers = Numbers.of(text)
        if numbers.ack_samples is not None:
            self._acked = max(self._acked, numbers.ack_samples)
            self._window.acknowledge(numbers.ack_samples * self._frame_bytes)
            if not self.is_repeating:
                self.kept.acknowledge(numbers.ack_samples)
        if numbers.message_id is not None:
            if numbers.message_id < self._received:
                return False
            self._received = numbers.message_id + 1
        match message:
            case ReadyMessage(resume_token=str(token), resume_window_s=float(window_s)):
                self._token, self.window_s = token, window_s
            case ResumedMessage(resume_token=token):
                self._token = token
            case _:
                pass
        return True


class Reconnector:
    """Connects again for as long as the server waits, and repeats what it may not have."""

    def __init__(
        self,
        resumption: Resumption,
        outgoing: Outgoing,
        window: AckWindow,
        *,
        connect: Connect,
        note: Callable[[str], None],
    ) -> None:
        self._resumption = resumption
        self._outgoing = outgoing
        self._window = window
        self._connect = connect
        self._note = note
        self._pause_s = 0.0
        self._lost = ConnectionLost(1006, "")
        self._deadline: float | None = None
        self._is_away = False
        self._repeating: asyncio.Task[None] | None = None

    @property
    def is_offered(self) -> bool:
        return self._resumption.is_offered

    def take(self, text: str, message: ServerMessage) -> bool:
        """Learn from a message; whether it is a new one of the session.

        Raises:
            ConnectionLost: the server does not take the client back.
        """
        acked, received = self._resumption.place
        is_new = self._resumption.take(text, message)
        if self._resumption.place != (acked, received):
            # Connections may follow each other that do not last for longer than `resumed`.
            self._deadline = None
            if self._resumption.place[0] > acked or not isinstance(message, PongMessage):
                self._pause_s = 0.0
        match message:
            case ReadyMessage() if not self._resumption.is_offered:
                self._outgoing.remember_nothing()
                return is_new
            case ResumedMessage():
                self._is_away = False
                self._note("resumed")
                return False
            case ErrorResponse(code=ErrorCode.RESUME_FAILED):
                raise ConnectionLost(self._lost.code, self._lost.reason or message.error)
            case _:
                return is_new

    async def reconnect(self, lost: ConnectionLost) -> ClientConnection:
        """A new connection, over which the server has yet to take the client back.

        Raises:
            ConnectionLost: there is none in time, or none is to be had.
        """
        await self.stop()
        if not self._resumption.is_offered or lost.code not in _LOST_CODES:
            raise lost
        now = asyncio.get_running_loop().time
        if self._deadline is None:
            self._lost, self._deadline = lost, now() + self._resumption.window_s
        if not self._is_away:
            self._is_away = True
            self._note("connection lost, resuming ...")
        while True:
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
            self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
            left_s = self._deadline - now()
            if left_s <= 0:
                lost, tried_s = self._lost, self._resumption.window_s
                raise ConnectionLost(lost.code, lost.reason, tried_s=tried_s)
            self._resumption.is_repeating = True
            try:
                websocket = await self._connect(self._resumption.query(), left_s)
            except ServerUnreachable:
                continue
            except Refused as error:
                if error.status in _PERHAPS_SOON:
                    continue
                raise self._lost from error
            self._repeating = asyncio.create_task(self._repeat(websocket))
            return websocket

    async def stop(self) -> None:
        """Repeat no more."""
        repeating, self._repeating = self._repeating, None
        if repeating is not None:
            repeating.cancel()
            await asyncio.wait([repeating])
            if not repeating.cancelled():
                repeating.result()

    async def _repeat(self, websocket: ClientConnection) -> None:
        """Beside the reading: the server may not read before it has told what it has to."""
        try:
            with suppress(ConnectionClosed):  # whoever reads meets the same end
                await self._outgoing.open(websocket)
                # Acknowledgements come with messages, and in silence there are no others.
                await self._outgoing.ping(self._window.sent)
        finally:
            self._resumption.is_repeating = False
