"""One session over a transport of memory: how it ends and what it keeps."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from stt_server.engine.base import RecognitionStream, StreamOptions
from stt_server.engine.fake import ScriptedEngine
from stt_server.errors import ServerShutdown
from stt_server.events import SAMPLE_RATE, Audio, Samples, StreamEvent, Transcript
from stt_server.metrics import Metrics
from stt_server.pipeline import Pipeline, Progress
from stt_server.protocols.base import Message
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.session import ClientGone, Reattached, Session, SessionParts
from stt_server.settings import LimitSettings, SessionOptions
from stt_server.stages.asr import StreamingAsrStage
from stt_server.stages.sink import SinkStage
from stt_server.stages.vad import VadStage

SECOND = b"\0" * SAMPLE_RATE * 2


class AlwaysSpeech:
    """Hears speech in every window. A `SpeechProbabilities`."""

    async def push(self, samples: Samples) -> list[float]:
        return [0.9] * (len(samples) // 512)

    def reset(self) -> None: ...


class HungEngine:
    """Opens streams that never answer."""

    async def open(self, options: StreamOptions) -> RecognitionStream:
        return self

    async def push(self, audio: Audio) -> Transcript | None:
        await asyncio.Event().wait()
        return None

    async def end_turn(self) -> Transcript:
        return Transcript()

    async def close(self) -> None: ...


class MemoryTransport:
    """Gives the messages of a list, then waits; keeps what it is sent."""

    def __init__(self, messages: Sequence[Message | Reattached]) -> None:
        self._messages = list(messages)
        self.sent: list[Message] = []
        self.closed: tuple[int, str] | None = None
        self.is_gone = self.is_detached = self.is_half_closed = False
        self.pinged_at = 0.0
        self.drained = asyncio.Event()

    async def receive(self) -> Message | Reattached | None:
        if self._messages:
            return self._messages.pop(0)
        self.drained.set()
        await asyncio.Event().wait()
        return None

    async def send(self, message: Message) -> None:
        if self.is_gone:
            raise ClientGone
        self.sent.append(message)

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


def session_of(
    transport: MemoryTransport, engine: ScriptedEngine | HungEngine, **limits: float
) -> tuple[Session, Progress]:
    settings = LimitSettings.model_validate(limits)
    codec = NativeCodec(
        session_id="s",
        defaults=SessionOptions(),
        abilities=Abilities(frozenset({"scripted"})),
        max_audio_bytes=2**24,
        query={},
    )
    progress, metrics, options = Progress(), Metrics(), SessionOptions()
    pipeline: Pipeline[StreamEvent, Message] = (
        VadStage(AlwaysSpeech(), options.endpointing, progress)
        + StreamingAsrStage(engine.open, options, progress, clock=time.monotonic)
        + SinkStage(codec, metrics, clock=time.monotonic)
    )
    parts = SessionParts(codec, pipeline, progress, authenticate=None)
    session = Session(parts, transport, limits=settings, metrics=metrics, clock=time.monotonic)
    return session, progress


async def test_audio_of_a_message_that_waits_for_room_is_kept_when_the_session_ends() -> None:
    transport = MemoryTransport([SECOND * 20])
    session, progress = session_of(transport, ScriptedEngine(), max_backlog_s=1.0)
    running = asyncio.create_task(session.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    session.end(ServerShutdown("going down"))
    await running

    assert progress.received == progress.done == 20 * SAMPLE_RATE
    assert transport.closed == (1012, "going down")


async def test_a_session_that_was_asked_to_finish_and_hangs_ends_at_the_deadline() -> None:
    transport = MemoryTransport([SECOND, '{"type":"finish"}'])
    session, _ = session_of(transport, HungEngine(), drain_s=0.1)
    running = asyncio.create_task(session.run())
    await transport.drained.wait()

    session.drain(ServerShutdown("going down"))
    session.end(ServerShutdown("going down"))
    async with asyncio.timeout(10):
        await running

    assert transport.closed == (1012, "going down")


async def test_a_client_that_finished_gets_its_answer_also_while_the_server_goes_down() -> None:
    transport = MemoryTransport([SECOND, '{"type":"finish"}'])
    session, _ = session_of(transport, ScriptedEngine())
    running = asyncio.create_task(session.run())
    await transport.drained.wait()

    session.end(ServerShutdown("going down"))
    await running

    assert '"type":"finished"' in str(transport.sent[-1])
    assert transport.closed == (1000, "")


async def test_a_lost_connection_is_noticed_while_nothing_is_read() -> None:
    transport = MemoryTransport([SECOND * 60])
    session, _ = session_of(transport, HungEngine(), max_backlog_s=1.0)
    running = asyncio.create_task(session.run())
    await asyncio.sleep(0)

    transport.is_gone = True
    async with asyncio.timeout(10):
        await running

    assert transport.closed is None


async def test_a_client_that_is_away_is_not_blamed_for_half_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stt_server.deadlines.SPLIT_SAMPLE_WAIT_S", 0.0)
    transport = MemoryTransport([b"\0\0\0"])
    session, _ = session_of(transport, ScriptedEngine())
    running = asyncio.create_task(session.run())
    transport.is_detached = True
    await asyncio.sleep(0.7)  # more than the watchdog waits
    assert not transport.sent
    transport.is_detached = False
    async with asyncio.timeout(10):
        while not transport.sent:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.05)
    running.cancel()
    assert "INVALID_AUDIO" in str(transport.sent[0])


async def test_a_client_that_is_back_says_again_what_the_session_has() -> None:
    again = Reattached(SAMPLE_RATE // 2)
    messages = [SECOND + b"\0", again, SECOND, '{"type":"finish"}']
    transport = MemoryTransport(messages)
    session, progress = session_of(transport, ScriptedEngine())

    await session.run()

    assert progress.taken == progress.received == SAMPLE_RATE * 3 // 2
    assert '"audioSeconds":1.5' in str(transport.sent[-1])


async def test_pings_are_answered_while_the_session_finishes() -> None:
    transport = MemoryTransport([SECOND, '{"type":"finish"}', '{"type":"ping","id":7}'])
    session, _ = session_of(transport, ScriptedEngine())

    await session.run()

    assert '{"type":"pong","id":7}' in transport.sent
