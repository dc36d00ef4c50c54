"""Every failure a client program can meet. `str(error)` is one sentence for people.

ClientError
├── BadAddress           the server's URL makes no sense (also a ValueError)
├── ServerUnreachable    nobody answers there, or it is no WebSocket server
├── Refused              the server does not take this client: key, origin, path, capacity
├── OptionsRefused       the server cannot honour a session option
├── ConnectionLost       the connection ended before `finished`
├── ServerSilent         no sign of life for the answer timeout
├── UnreadableMessage    the server sent what is no message of the native protocol
├── ClientClosed         used before it is open, or after `finish` or `close`
├── NoAudioDevice        no microphone, or no library to open one
└── UnreadableAudio      a file that cannot be decoded
"""

_BAD_KEY = "the API key is missing or wrong"


class ClientError(Exception):
    """Base of every error this package raises on purpose."""


class BadAddress(ClientError, ValueError):
    """The server's URL makes no sense."""


class ServerUnreachable(ClientError):
    """Nobody answers at the address, or what answers is no WebSocket server."""


class Refused(ClientError):
    """The server does not take this client.

    Attributes:
        status: HTTP status (401 key, 403 origin, 404 path, 503 full or loading), or the
            WebSocket close code if the connection was ended before the session began.
        reason: the server's own words, may be empty.
    """

    def __init__(self, status: int, reason: str) -> None:
        meaning = {
            1013: "the server has no place for this client",
            401: _BAD_KEY,
            4401: _BAD_KEY,
            403: "this origin is not allowed",
            404: "no speech-to-text server at this path",
            503: "the server is full or still loading",
        }.get(status, "the server refused the connection")
        super().__init__(f"{meaning} ({status}{': ' if reason else ''}{reason})")
        self.status = status
        self.reason = reason


class OptionsRefused(ClientError):
    """The server cannot honour a session option.

    Attributes:
        code: the native protocol's error code, mostly `INVALID_CONFIG`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the server refused the session's options: {message} ({code})")
        self.code = code


class ConnectionLost(ClientError):
    """The connection ended before `finished`; messages that came before it can still be read.

    Attributes:
        code: WebSocket close code; 1006 if the network broke.
        reason: the server's own words, may be empty.
    """

    def __init__(self, code: int, reason: str, *, tried_s: float | None = None) -> None:
        """
        Args:
            tried_s: how long the client has tried to come back.
        """
        lost = f"the connection was lost ({code}{': ' if reason else ''}{reason})"
        if tried_s is not None:
            lost += f" and could not come back within {tried_s:g} s; is the server running?"
        super().__init__(lost)
        self.code = code
        self.reason = reason


class ServerSilent(ClientError):
    """The server owes an answer and showed no sign of life for the answer timeout."""


class UnreadableMessage(ClientError):
    """The server sent what is no message of the native protocol."""


class ClientClosed(ClientError):
    """The client is not open, or nothing may follow `finish`."""


class NoAudioDevice(ClientError):
    """There is no microphone to record from, or no library to open one."""


class UnreadableAudio(ClientError):
    """A file that is missing, empty or cannot be decoded."""


def advised(error: ClientError) -> str:
    """`error` for who typed a command line: with what to type instead, where that is known."""
    code = error.status if isinstance(error, Refused) else getattr(error, "code", None)
    if code in (401, 4401):
        return f"{error}: give yours with --api-key or in the variable STT_API_KEY"
    return str(error)
