"""A native client that shows every message as it came."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.speech import pcm

Json: TypeAlias = dict[str, Any]
PACKET_BYTES = 16_000
"""Half a second: what a client sends that is ahead of time."""
PATIENCE_S = 60.0
"""Longest wait for any one message; on an idle machine a small part of it is needed."""


class NativeClient:
    """One connection to `/ws/transcribe`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Json] = []
        """Every message so far."""

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code

    @property
    def finals(self) -> list[str]:
        return [message["text"] for message in self.seen if message.get("isFinal")]

    async def send(self, message: Json | str | bytes) -> None:
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def send_binary(self, data: bytes, packet_bytes: int = PACKET_BYTES) -> None:
        for begin in range(0, len(data), packet_bytes):
            await self.socket.send(data[begin : begin + packet_bytes])

    async def send_frames(
        self, data: bytes, packet_bytes: int = PACKET_BYTES, **fields: Any
    ) -> None:
        """As AudioFrames of 16 kHz mono PCM16, or what `fields` say."""
        for begin in range(0, len(data), packet_bytes):
            await self.send(audio_frame(data[begin : begin + packet_bytes], **fields))

    async def receive(self, timeout_s: float = PATIENCE_S) -> Json:
        async with asyncio.timeout(timeout_s):
            message = json.loads(await self.socket.recv())
        self.seen.append(message)
        return message

    async def receive_until(
        self, wanted: Callable[[Json], bool], timeout_s: float = PATIENCE_S
    ) -> list[Json]:
        """Messages up to and including the first wanted one."""
        messages = [await self.receive(timeout_s)]
        while not wanted(messages[-1]):
            messages.append(await self.receive(timeout_s))
        return messages

    async def receive_all(self, timeout_s: float = PATIENCE_S) -> list[Json]:
        """Messages until the server closes."""
        messages: list[Json] = []
        try:
            while True:
                messages.append(await self.receive(timeout_s))
        except ConnectionClosed:
            return messages

    async def ask(self, message: Json, answer: str) -> list[Json]:
        """Send a control message; everything up to its answer."""
        await self.send(message)
        return await self.receive_until(is_type(answer))

    async def finish(self, timeout_s: float = PATIENCE_S) -> list[Json]:
        """Send `finish`; everything until the server closes."""
        await self.send({"type": "finish"})
        return await self.receive_all(timeout_s)


@asynccontextmanager
async def open_client(url: str, **arguments: Any) -> AsyncIterator[NativeClient]:
    """A connection with the library's own keepalive; `arguments` go to `websockets.connect`."""
    async with connect(url, compression=None, proxy=None, **arguments) as socket:
        yield NativeClient(socket)


async def keep_talking(client: NativeClient) -> list[Json]:
    """The same second of speech over and over in real time, until the server closes."""
    second = pcm("demo")[32_000:64_000]
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(client.receive_all())
        while not reading.done():
            for begin in range(0, len(second), 6_400):
                await asyncio.wait([reading], timeout=0.2)
                with suppress(ConnectionClosed):
                    await client.send(second[begin : begin + 6_400])
    return reading.result()


async def transcribe(url: str, pcm: bytes, packet_bytes: int = PACKET_BYTES) -> list[Json]:
    """All messages for binary audio and `finish`."""
    async with open_client(url) as client:
        # Read while sending: what is not read would stop the server in the end.
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(client.receive_all(60.0))
            await client.send_binary(pcm, packet_bytes)
            await client.send({"type": "finish"})
        assert client.close_code == 1000
        return reading.result()


def audio_frame(
    data: bytes, sample_rate: int = 16_000, channels: int = 1, **fields: Any
) -> dict[str, Any]:
    samples = base64.b64encode(data).decode()
    return {"samples": samples, "sampleRate": sample_rate, "channels": channels, **fields}


def is_type(name: str) -> Callable[[Json], bool]:
    return lambda message: message.get("type") == name


def is_final(message: Json) -> bool:
    return bool(message.get("isFinal"))


def is_error(message: Json) -> bool:
    return "error" in message
