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
    is_cumulative: bool = True
    too_large: str | bytes = b"\0" * (2**20 + 2)
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


def _parakeet_kind(message: Json) -> str:
    if message["type"] != "result":
        return message["type"]
    return "last" if message["is_final"] else "interim"


def _fastconformer_kind(message: Json) -> str:
    if message["op"] == "error":
        return "error"
    return "final" if message["final"] else "interim"


def parakeet_audio(data: bytes, **fields: Any) -> str:
    return json.dumps({"type": "audio", "data": base64.b64encode(data).decode(), **fields})


NATIVE = Face(
    "native",
    "/ws/transcribe",
    opening=(),
    greeting=(),
    audio=lambda data: data,
    end='{"type":"finish"}',
    kind=_native_kind,
    is_cumulative=False,
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
FACES = (NATIVE, PARAKEET, PARAKEET_TCP, FASTCONFORMER)


class FaceClient:
    """One session."""

    def __init__(self, face: Face, wire: Wire) -> None:
        self.face = face
        self.wire = wire
        self.seen: list[Json] = []

    async def send(self, data: bytes, packet_bytes: int = 16_000) -> None:
        for begin in range(0, len(data), packet_bytes):
            await self.wire.send(self.face.audio(data[begin : begin + packet_bytes]))

    async def receive(self) -> Json | None:
        """The next message; None at the end."""
        async with asyncio.timeout(PATIENCE_S):
            text = await self.wire.receive()
        if text is None:
            return None
        self.seen.append(json.loads(text))
        return self.seen[-1]

    async def receive_until(self, kind: str) -> Json:
        while (message := await self.receive()) is not None:
            if self.face.kind(message) == kind:
                return message
        raise AssertionError(f"ended without {kind}: {self.seen[-3:]}")

    async def receive_all(self) -> list[Json]:
        while await self.receive() is not None:
            pass
        return self.seen

    async def finish(self) -> list[Json]:
        await self.wire.send(self.face.end)
        return await self.receive_all()

    @property
    def kinds(self) -> list[str]:
        return [self.face.kind(message) for message in self.seen]

    @property
    def texts(self) -> list[str]:
        """Text of the whole session as of each message that has text."""
        ended, texts = "", []
        for message in self.seen:
            if "text" not in message:
                continue
            whole = message["text"]
            if not self.face.is_cumulative:
                whole = f"{ended} {whole}".strip()
                ended = whole if message["isFinal"] else ended
            texts.append(whole)
        return texts


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
