"""One client that speaks as people do, or as fast as it can."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stt_server.bench.observer import Observer, Timeline
from stt_server.bench.target import Target
from stt_server.clients.connection import open_websocket
from stt_server.clients.errors import ClientError, ConnectionLost, Refused, ServerSilent
from stt_server.clients.siblings import Dialect
from stt_server.clients.wires import WebSocketWire, Wire
from stt_server.events import SAMPLE_RATE

CONNECT_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 60.0


TURNED_AWAY = (503, 1012, 1013, 4408, 4409)
"""HTTP status and close codes for clients that a server cannot serve, but could another time."""


class Speech(Protocol):
    """What a client says."""

    def read(self, start: int, count: int) -> bytes:
        """PCM16 of `count` samples from `start` on."""
        ...


@dataclass(frozen=True, slots=True)
class Manner:
    """How clients send."""

    packet_samples: int
    samples: int
    """Audio of each client."""
    fast: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one session cost."""

    sent_s: float
    to_end_s: float
    """From the last audio to the server's last message."""
    late: list[tuple[float, float]]
    """When packets were sent, and how many seconds late."""


async def converse(
    target: Target,
    speech: Speech,
    manner: Manner,
    make_observer: Callable[[Timeline], Observer],
    stop: asyncio.Event,
) -> Outcome:
    """Speak, then hear everything the server has to say.

    Args:
        stop: Set: say no more, but still hear the end.

    Raises:
        ExceptionGroup[ClientError]: the server left or said nothing.
        ClientError: it did not take this client.
    """
    dialect = target.dialect()
    socket = await open_websocket(
        target.url,
        api_key=target.api_key,
        connect_timeout_s=CONNECT_TIMEOUT_S,
        answer_timeout_s=ANSWER_TIMEOUT_S,
    )
    wire = WebSocketWire(socket, answer_timeout_s=ANSWER_TIMEOUT_S)
    try:
        if dialect.opening is not None:
            await wire.send(dialect.opening)
        began = asyncio.get_running_loop().time()
        observer = make_observer(Timeline(began, manner.packet_samples))
        listener = _Listener(wire, dialect, observer)
        async with asyncio.TaskGroup() as tasks:
            hearing = tasks.create_task(listener.run())
            late = await _speak(wire, dialect, speech, manner, began, stop)
            observer.finish()
            ended = asyncio.get_running_loop().time()
            await wire.send(dialect.ending)
            await listener.hear_out(hearing)
    finally:
        await wire.close()
    sent_s = len(late) * manner.packet_samples / SAMPLE_RATE
    return Outcome(sent_s, max(0.0, listener.last_at - ended), late)


def first_failure(group: BaseExceptionGroup[ClientError]) -> ClientError:
    """What came first: the rest follows from it."""
    error = group.exceptions[0]
    return first_failure(error) if isinstance(error, BaseExceptionGroup) else error


def was_turned_away(error: ClientError) -> bool:
    """Whether the server had no place, or none any more."""
    match error:
        case Refused(status=code) | ConnectionLost(code=code):
            return code in TURNED_AWAY
        case _:
            return False


async def _speak(
    wire: Wire,
    dialect: Dialect,
    speech: Speech,
    manner: Manner,
    began: float,
    stop: asyncio.Event,
) -> list[tuple[float, float]]:
    loop = asyncio.get_running_loop()
    late: list[tuple[float, float]] = []
    packet = manner.packet_samples
    for index in range(manner.samples // packet):
        due = began + (index + 1) * packet / SAMPLE_RATE
        await asyncio.sleep(0.0 if manner.fast else max(0.0, due - loop.time()))
        if stop.is_set():
            break
        now = loop.time()
        late.append((now, max(0.0, now - due)))
        await wire.send(dialect.audio(speech.read(index * packet, packet)))
    return late


class _Listener:
    """Hears what the server says."""

    def __init__(self, wire: Wire, dialect: Dialect, observer: Observer) -> None:
        self._wire, self._dialect, self._observer = wire, dialect, observer
        self.last_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Until the server closes.

        Raises:
            ConnectionLost: it was not asked to.
        """
        while (text := await self._wire.receive()) is not None:
            self.last_at = asyncio.get_running_loop().time()
            self._observer.hear(self._dialect.parse(text), self.last_at)
        if not self._dialect.has_final:
            raise ConnectionLost(1000, "the server ended the session")

    async def hear_out(self, hearing: "asyncio.Task[None]") -> None:
        """Wait for the end, as long as the server says something.

        Raises:
            ServerSilent: it does not.
        """
        waiting_since = asyncio.get_running_loop().time()
        while not hearing.done():
            left = max(waiting_since, self.last_at) + ANSWER_TIMEOUT_S
            left -= asyncio.get_running_loop().time()
            if left <= 0:
                raise ServerSilent(f"nothing from the server for {ANSWER_TIMEOUT_S:g} s")
            await asyncio.wait([hearing], timeout=left)
