"""Every failure the server knows, and how each one reaches a client.

    SttError
    ├── BadMessage                     the message is refused whole, the session goes on
    │   ├── InvalidJson
    │   ├── InvalidMessage
    │   ├── InvalidAudio
    │   ├── InvalidConfig
    │   ├── UnsupportedSampleRate
    │   ├── UnsupportedChannels
    │   ├── UnsupportedEncoding
    │   └── FrameTooLarge
    ├── TranscriptionError             the open turn lost audio, the session goes on
    └── SessionError                   ends the session with `close_code`
        ├── Unauthorized               4401
        ├── BadMessageFlood            4400
        ├── BadQuery                   4400
        ├── BadOpening                 1002
        ├── NotText                    1003
        ├── MessageTooLarge            1009
        ├── IdleTimeout                4408
        ├── SessionLimit               4409
        ├── ResumeFailed               4410
        ├── ServerShutdown             1012
        ├── Overloaded                 1013
        ├── ClientTooSlow              1013
        └── InternalError              1011

`str(error)` is shown to the client: it must be readable and hold nothing internal.
"""

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Stable names of errors on the wire; `docs/protocols/` says what each protocol shows."""

    INVALID_JSON = "INVALID_JSON"
    INVALID_MESSAGE = "INVALID_MESSAGE"
    INVALID_AUDIO = "INVALID_AUDIO"
    INVALID_CONFIG = "INVALID_CONFIG"
    UNSUPPORTED_SAMPLE_RATE = "UNSUPPORTED_SAMPLE_RATE"
    UNSUPPORTED_CHANNELS = "UNSUPPORTED_CHANNELS"
    UNSUPPORTED_ENCODING = "UNSUPPORTED_ENCODING"
    FRAME_TOO_LARGE = "FRAME_TOO_LARGE"
    TRANSCRIPTION_ERROR = "TRANSCRIPTION_ERROR"
    UNAUTHORIZED = "UNAUTHORIZED"
    IDLE_TIMEOUT = "IDLE_TIMEOUT"
    SESSION_LIMIT = "SESSION_LIMIT"
    RESUME_FAILED = "RESUME_FAILED"
    SERVER_SHUTDOWN = "SERVER_SHUTDOWN"
    OVERLOADED = "OVERLOADED"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class SttError(Exception):
    """Base of every error that may reach a client. `str(error)` is safe to send."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR


class BadMessage(SttError):
    """The client's message is refused as a whole; audio before and after it is kept."""

    code = ErrorCode.INVALID_MESSAGE


class InvalidJson(BadMessage):
    """A text message is not JSON."""

    code = ErrorCode.INVALID_JSON


class InvalidMessage(BadMessage):
    """JSON of an unknown shape, a wrongly typed field or bad base64."""


class InvalidAudio(BadMessage):
    """The bytes are not a whole number of samples."""

    code = ErrorCode.INVALID_AUDIO


class InvalidConfig(BadMessage):
    """A session option has a value this server cannot honour."""

    code = ErrorCode.INVALID_CONFIG


class UnsupportedSampleRate(BadMessage):
    """The sample rate lies outside 8000-48000 Hz."""

    code = ErrorCode.UNSUPPORTED_SAMPLE_RATE


class UnsupportedChannels(BadMessage):
    """Neither one channel nor two."""

    code = ErrorCode.UNSUPPORTED_CHANNELS


class UnsupportedEncoding(BadMessage):
    """A sample encoding other than pcm16, f32, mulaw and alaw."""

    code = ErrorCode.UNSUPPORTED_ENCODING


class FrameTooLarge(BadMessage):
    """More decoded audio in one message than `limits.max_message_audio_bytes`."""

    code = ErrorCode.FRAME_TOO_LARGE


class TranscriptionError(SttError):
    """The engine failed on audio of the open turn; words found before it are kept."""

    code = ErrorCode.TRANSCRIPTION_ERROR


class SessionError(SttError):
    """Ends the session."""

    close_code: ClassVar[int] = 1011
    """WebSocket close code; every other error leaves the session open."""


class Unauthorized(SessionError):
    """No valid API key within the handshake time."""

    code = ErrorCode.UNAUTHORIZED
    close_code = 4401


class BadMessageFlood(SessionError):
    """More bad messages in ten seconds than `limits.max_bad_messages`."""

    code = ErrorCode.INVALID_MESSAGE
    close_code = 4400


class BadQuery(SessionError):
    """A parameter in the connection's URL has a value this server cannot honour."""

    code = ErrorCode.INVALID_CONFIG
    close_code = 4400


class BadOpening(SessionError):
    """The first message is not the one the protocol begins with, or came too late."""

    code = ErrorCode.INVALID_MESSAGE
    close_code = 1002


class NotText(SessionError):
    """A binary message where the protocol knows only text."""

    code = ErrorCode.INVALID_MESSAGE
    close_code = 1003


class MessageTooLarge(SessionError):
    """A message or line so long that its protocol ends the session."""

    code = ErrorCode.FRAME_TOO_LARGE
    close_code = 1009


class IdleTimeout(SessionError):
    """Nothing came from the client for `limits.idle_timeout_s`."""

    code = ErrorCode.IDLE_TIMEOUT
    close_code = 4408


class SessionLimit(SessionError):
    """The session reached `limits.max_session_s`; what was said has been sent."""

    code = ErrorCode.SESSION_LIMIT
    close_code = 4409


class ResumeFailed(SessionError):
    """There is no session that this client may go on with."""

    code = ErrorCode.RESUME_FAILED
    close_code = 4410


class ServerShutdown(SessionError):
    """The server is going down; what was said has been sent as far as time allowed."""

    code = ErrorCode.SERVER_SHUTDOWN
    close_code = 1012


class Overloaded(SessionError):
    """The engine has no place for the stream, or went away. Worth another try."""

    code = ErrorCode.OVERLOADED
    close_code = 1013


class ClientTooSlow(SessionError):
    """The client did not read its messages for `limits.send_timeout_s`."""

    code = ErrorCode.OVERLOADED
    close_code = 1013


class InternalError(SessionError):
    """Something failed that should not; the log has the rest under the session's id."""
