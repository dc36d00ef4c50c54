"""One client for all protocols: what a test says and sees is the same, the wire is not."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.server import ServerProcess

Json: TypeAlias = dict[str, Any]
PATIENCE_S = 60.0


class Wire(Protocol):
    """A connection that carries messages."""

    close_code: int | None

    async def send(self, message: str | bytes) -> None: ...
    async def receive(self) -> str | None: ...
    def vanish(self) -> None: ...


class SocketWire:
    """A WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code

    async def send(self, message: str | bytes) -> None:
        await self.socket.send(message)

    async def receive(self) -> str | None:
        try:
            return str(await self.socket.recv())
        except ConnectionClosed:
            return None

    def vanish(self) -> None:
        self.socket.transport.abort()


class LineWire:
    """Raw TCP; it has no close codes."""

    close_code = None

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, message: str | bytes) -> None:
        self.writer.write((message.encode() if isinstance(message, str) else message) + b"\n")
        await self.writer.drain()

    async def receive(self) -> str | None:
        return (await self.reader.readline()).decode() or None

    def vanish(self) -> None:
        self.writer.transport.abort()


def _cumulative_texts(messages: list[Json]) -> list[str]:
    return [message["text"] for message in messages if "text" in message]


def _code(message: Json) -> str:
    return message["code"]


@dataclass(frozen=True)
class Face:
    """What one protocol looks like from outside."""

    name: str
    path: str | None
    """None: raw TCP."""
    opening: tuple[str, ...]
    """What a client sends first."""
    greeting: tuple[str, ...]
    """Kinds of message that come before any audio."""
    audio: Callable[[bytes], str | bytes]
    end: str
    kind: Callable[[Json], str]
    """`interim`, `final` (of a turn), `last` (of the session), `error` or the message's own."""
    texts: Callable[[list[Json]], list[str]] = _cumulative_texts
    """Text of the whole session as of each message that has text."""
    code: Callable[[Json], str] = _code
    """Of an error."""
    end_mark: str | None = None
    """What is sent behind `end` where that has no answer; the client leaves with the `last`."""
    too_large: str | bytes = b"\0" * (2**20 + 2)
    too_large_code: str = "FRAME_TOO_LARGE"
    survives_too_large: bool = True

    async def introduce(self, client: "FaceClient") -> None:
        for message in self.opening:
            await client.wire.send(message)
        for kind in self.greeting:
            message = await client.receive()
            assert message is not None
            assert self.kind(message) == kind


def _native_kind(message: Json) -> str:
    if "error" in message:
        return "error"
    return message.get("type") or ("final" if message["isFinal"] else "interim")


def _native_texts(messages: list[Json]) -> list[str]:
    ended, texts = "", list[str]()
    for message in messages:
        if "text" in message:
            texts.append(f"{ended} {message['text']}".strip())
            ended = texts[-1] if message["isFinal"] else ended
    return texts


def _parakeet_kind(message: Json) -> str:
    if message["type"] != "result":
        return message["type"]
    return "last" if message["is_final"] else "interim"


def _fastconformer_kind(message: Json) -> str:
    if message["op"] == "error":
        return "error"
    return "final" if message["final"] else "interim"


def _realtime_kind(message: Json) -> str:
    *_, last = message["type"].split(".")
    return {
        "created": "hello",
        "updated": "hello",
        "delta": "interim",
        "completed": "final",
        "cleared": "last",
        "error": "error",
    }.get(last, "event")


def _realtime_texts(messages: list[Json]) -> list[str]:
    ended, told, texts = "", "", list[str]()
    for message in messages:
        told += message.get("delta", "")
        told = message.get("transcript", told)
        if "delta" in message or "transcript" in message:
            texts.append(f"{ended} {told}".strip())
        if "transcript" in message:
            ended, told = texts[-1], ""
    return texts


def _realtime_code(message: Json) -> str:
    return message["error"]["code"].upper()


def parakeet_audio(data: bytes, **fields: Any) -> str:
    return json.dumps({"type": "audio", "data": base64.b64encode(data).decode(), **fields})


def realtime_audio(data: bytes) -> str:
    audio = base64.b64encode(data).decode()
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio})


def _realtime_session() -> str:
    """What makes turns end as in the other protocols."""
    audio = {
        "format": {"type": "audio/pcm", "rate": 16_000},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 800},
    }
    session = {"type": "transcription", "audio": {"input": audio}}
    return json.dumps({"type": "session.update", "session": session})


NATIVE = Face(
    "native",
    "/ws/transcribe",
    opening=(),
    greeting=(),
    audio=lambda data: data,
    end='{"type":"finish"}',
    kind=_native_kind,
    texts=_native_texts,
)
_PARAKEET = {
    "opening": (),
    "greeting": ("hello",),
    "audio": parakeet_audio,
    "end": '{"type":"close"}',
    "kind": _parakeet_kind,
    "too_large": "x" * (8 * 2**20 + 1),
    "survives_too_large": False,
}
PARAKEET = Face("parakeet", "/ws/parakeet", **_PARAKEET)
PARAKEET_TCP = Face("parakeet-tcp", None, **_PARAKEET)
FASTCONFORMER = Face(
    "fastconformer",
    "/ws/fastconformer",
    ('{"op":"init","sid":"demo1","sr":16000}',),
    (),
    lambda data: data,
    '{"op":"close","sid":"demo1"}',
    _fastconformer_kind,
)
REALTIME = Face(
    "realtime",
    "/v1/realtime",
    (_realtime_session(),),
    ("hello", "hello"),
    realtime_audio,
    '{"type":"input_audio_buffer.commit"}',
    _realtime_kind,
    texts=_realtime_texts,
    code=_realtime_code,
    end_mark='{"type":"input_audio_buffer.clear"}',
    too_large=f'{{"type":"input_audio_buffer.append","audio":"{"AAAA" * (5 * 2**20 + 1)}"}}',
    too_large_code="AUDIO_TOO_LARGE",
)
FACES = (NATIVE, PARAKEET, PARAKEET_TCP, FASTCONFORMER, REALTIME)


class FaceClient:
    """One session."""

    def __init__(self, face: Face, wire: Wire) -> None:
        self.face = face
        self.wire = wire
        self.seen: list[Json] = []
        self._has_left = False

    async def send(self, data: bytes, packet_bytes: int = 16_000) -> None:
        for begin in range(0, len(data), packet_bytes):
            await self.wire.send(self.face.audio(data[begin : begin + packet_bytes]))

    async def receive(self) -> Json | None:
        """The next message; None at the end."""
        if self._has_left:
            return None
        async with asyncio.timeout(PATIENCE_S):
            text = await self.wire.receive()
        if text is None:
            return None
        self.seen.append(message := json.loads(text))
        self._has_left = self.face.end_mark is not None and self.face.kind(message) == "last"
        return message

    async def receive_until(self, kind: str) -> Json:
        while (message := await self.receive()) is not None:
            if self.face.kind(message) == kind:
                return message
        raise AssertionError(f"ended without {kind}: {self.seen[-3:]}")

    async def receive_all(self) -> list[Json]:
        while await self.receive() is not None:
            pass
        return self.seen

    async def say_end(self) -> None:
        """No audio follows."""
        await self.wire.send(self.face.end)
        if self.face.end_mark is not None:
            await self.wire.send(self.face.end_mark)

    async def finish(self) -> list[Json]:
        await self.say_end()
        return await self.receive_all()

    @property
    def kinds(self) -> list[str]:
        return [self.face.kind(message) for message in self.seen]

    @property
    def texts(self) -> list[str]:
        return self.face.texts(self.seen)


@asynccontextmanager
async def open_face(
    face: Face, server: ServerProcess, tcp_port: int, *, query: str = "", **arguments: Any
) -> AsyncIterator[FaceClient]:
    """An introduced client; `arguments` go to `websockets.connect`."""
    async with connect_face(face, server, tcp_port, query=query, **arguments) as client:
        await face.introduce(client)
        yield client


@asynccontextmanager
async def connect_face(
    face: Face, server: ServerProcess, tcp_port: int, *, query: str = "", **arguments: Any
) -> AsyncIterator[FaceClient]:
    """A client that has said nothing yet."""
    host, port = server.address
    if face.path is None:
        reader, writer = await asyncio.open_connection(host, tcp_port)
        try:
            yield FaceClient(face, LineWire(reader, writer))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        return
    url = f"ws://{host}:{port}{face.path}{query}"
    async with connect(url, compression=None, proxy=None, **arguments) as socket:
        yield FaceClient(face, SocketWire(socket))
