"""A native server on a real socket that does what a test tells it, and remembers what it got."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self

from websockets.asyncio.server import Request, Response, Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

Json = dict[str, Any]

INTERIM: Json = {"text": "please send", "isFinal": False, "isEndOfTurn": False}
FINAL: Json = {
    "text": "please send the report",
    "isFinal": True,
    "isEndOfTurn": True,
    "start": 0.5,
    "end": 2.25,
    "words": [
        {"word": "please", "start": 0.5, "end": 1.0},
        {"word": "send", "start": 1.0, "end": 1.4},
        {"word": "the", "start": 1.4, "end": 1.6},
        {"word": "report", "start": 1.6, "end": 2.25},
    ],
}
READY: Json = {"type": "ready", "sessionId": "s-1", "config": {"sampleRate": 16_000}}


@dataclass
class FakeServer:
    """How it behaves; then what it got."""

    on_audio: list[Json] = field(default_factory=lambda: [INTERIM])
    """Sent once, after the first audio."""
    on_end: list[Json] = field(default_factory=lambda: [FINAL])
    """Sent before `flushed` and `finished`."""
    on_config: list[Json] = field(default_factory=lambda: [READY])
    refuse: Response | None = None
    close_with: tuple[int, str] | None = None
    """Close after `on_audio` with this code and reason; with no `on_config` instead of `ready`."""
    answers_pings: bool = True
    answers_flush: bool = True
    answers_finish: bool = True
    closes: bool = True
    """Close after `finished`."""
    drops_after: int | None = None
    """Bytes of audio after which the connection is lost, once."""
    on_resume: list[Json] = field(default_factory=list[Json])
    """Sent to a client that comes back."""
    close_resumed_with: tuple[int, str] | None = None
    """Close then, with this code and reason."""
    drops_resumed: bool = False
    """Lose the connection then."""
    refuse_resume: Response | None = None
    deaf_s: float = 0.0
    """Reads nothing for so long, once, after the first audio."""

    paths: list[str] = field(default_factory=list[str])
    """What was asked for, connection by connection."""

    texts: list[Json] = field(default_factory=list)
    packet_bytes: list[int] = field(default_factory=list)
    audio: bytearray = field(default_factory=bytearray)
    headers: dict[str, str] = field(default_factory=dict)
    close_code: int | None = None
    """What the client closed with."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Pulsed after each message of the client."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._server: Server = await serve(
            self._serve, "127.0.0.1", 0, process_request=self._process_request, close_timeout=1
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def answer_pings(self) -> None:
        """Answer those that were left unanswered, and all that follow."""
        self.answers_pings = True
        for message in self.texts:
            if message["type"] == "ping":
                await self._send({"type": "pong", "id": message["id"]})

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        self.headers = dict(request.headers.raw_items())
        self.path = request.path
        self.paths.append(request.path)
        return self.refuse_resume if "resume_token" in request.path else self.refuse

    async def _serve(self, connection: ServerConnection) -> None:
        self._connection = connection
        try:
            if "resume_token" in self.path:
                await self._send(*self.on_resume)
                if self.close_resumed_with is not None:
                    await connection.close(*self.close_resumed_with)
                if self.drops_resumed:
                    connection.transport.abort()
            async for message in connection:
                if isinstance(message, bytes):
                    await self._take_audio(message)
                else:
                    await self._take_text(json.loads(message))
                self.news.set()
                self.news.clear()
        except ConnectionClosed:
            pass
        finally:
            self.close_code = connection.close_code
            self.gone.set()

    async def _take_audio(self, data: bytes) -> None:
        self.audio += data
        self.packet_bytes.append(len(data))
        if self.deaf_s:
            transport = self._connection.transport
            transport.pause_reading()
            asyncio.get_running_loop().call_later(self.deaf_s, transport.resume_reading)
            self.deaf_s = 0.0
        replies, self.on_audio = self.on_audio, []
        await self._send(*replies)
        if self.close_with is not None:
            await self._connection.close(*self.close_with)
        if self.drops_after is not None and len(self.audio) >= self.drops_after:
            self.drops_after = None
            self._connection.transport.abort()

    async def _take_text(self, message: Json) -> None:
        self.texts.append(message)
        match message["type"]:
            case "config":
                await self._send(*self.on_config)
                if not self.on_config and self.close_with is not None:
                    await self._connection.close(*self.close_with)
            case "ping" if self.answers_pings:
                await self._send({"type": "pong", "id": message["id"]})
            case "flush" if self.answers_flush:
                await self._send(*self.on_end, {"type": "flushed"})
            case "finish" if self.answers_finish:
                finished = {"type": "finished", "audioSeconds": 1.0, "turns": 1}
                await self._send(*self.on_end, finished)
                if self.closes:
                    await self._connection.close(1000)
            case _:
                pass

    async def _send(self, *messages: Json) -> None:
        for message in messages:
            await self._connection.send(json.dumps(message))


def refusal(status: int, body: str) -> Response:
    encoded = body.encode()
    return Response(status, "", Headers({"Content-Length": str(len(encoded))}), encoded)
