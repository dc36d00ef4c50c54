"""WebSocket connections that end while nobody has been told yet."""

import asyncio

import pytest
from uvicorn import Config
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from stt_server.transport import PatientWebSocketProtocol

GOODBYE = Frame(Opcode.CLOSE, Close(1001, "").serialize()).serialize(mask=True)


class FullTransport(asyncio.Transport):
    """Its peer reads nothing: what is written stays, and closing waits for that."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = self._is_closing = False

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = self.is_aborted = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def accepting(_: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    await asyncio.Event().wait()


@pytest.mark.parametrize("has_said_goodbye", [False, True])
async def test_a_connection_is_left_in_every_state(has_said_goodbye: bool) -> None:
    state, transport = ServerState(), FullTransport()
    protocol = PatientWebSocketProtocol(Config(accepting, ws_max_size=2**20), state, {})
    protocol.connection_made(transport)
    client = ClientProtocol(parse_uri("ws://localhost/"))
    client.send_request(client.connect())
    protocol.data_received(b"".join(client.data_to_send()))
    await asyncio.sleep(0)
    if has_said_goodbye:
        protocol.data_received(GOODBYE)
    protocol.probe(lambda: None)
    protocol.leave(4410, "resumed over another connection")
    assert transport.is_closing()
    assert transport.is_aborted == has_said_goodbye
    protocol.connection_lost(None)
    for task in state.tasks:
        task.cancel()
    await asyncio.gather(*state.tasks, return_exceptions=True)
