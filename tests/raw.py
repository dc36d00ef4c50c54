"""A WebSocket client made of bytes: what no library would send, and peers that do not read."""

import base64
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def upgrade_request(path: str, headers: str, host: str) -> bytes:
    """`headers`: whole lines, each ended by CR LF."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    ).encode("latin-1")


def frame(opcode: int, payload: bytes, *, is_last: bool = True, flags: int = 0) -> bytes:
    """One masked frame; the mask is zero, so the payload stays as it is."""
    head = bytes([opcode | flags | (0x80 if is_last else 0)])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 2**16:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + bytes(4) + payload


class RawPeer:
    """One TCP connection; nothing is read unless a test asks."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._unread = b""

    def upgrade(
        self, path: str = "/ws/transcribe", headers: str = "", host: str = "localhost"
    ) -> bytes:
        """The head of the answer to a WebSocket upgrade."""
        self.socket.sendall(upgrade_request(path, headers, host))
        while b"\r\n\r\n" not in self._unread:
            self._fill()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return head

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def receive(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame. Raises `EOFError` at the end."""
        head = self._take(2)
        size = head[1]
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
        return head[0] & 0x0F, self._take(size)

    def close_code(self) -> int:
        """Read to the close frame."""
        while True:
            opcode, payload = self.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    def read_to_end(self) -> bytes:
        """All bytes until the server ends the connection."""
        try:
            while True:
                self._fill()
        except (EOFError, ConnectionResetError):
            return self._unread

    def reset(self) -> None:
        """Vanish with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._unread) < count:
            self._fill()
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def _fill(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError
        self._unread += data


@contextmanager
def raw_peer(
    address: tuple[str, int], *, receive_buffer: int | None = None, timeout_s: float = 20.0
) -> Iterator[RawPeer]:
    """A connection; a small `receive_buffer` (bytes) makes the server feel a peer that stops
    reading at once."""
    with socket.socket() as connection:
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(timeout_s)
        connection.connect(address)
        yield RawPeer(connection)
