"""Programs that talk to the server, and the `Client` beneath them.

Names are loaded when they are first used: `stt-client --help` needs neither numpy nor websockets.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stt_server.clients.client import Client
    from stt_server.clients.errors import (
        BadAddress,
        ClientClosed,
        ClientError,
        ConnectionLost,
        NoAudioDevice,
        OptionsRefused,
        Refused,
        ServerSilent,
        ServerUnreachable,
        UnreadableAudio,
        UnreadableMessage,
    )
    from stt_server.clients.messages import ServerMessage, UnknownMessage
    from stt_server.clients.options import ClientOptions

__all__ = [
    "BadAddress",
    "Client",
    "ClientClosed",
    "ClientError",
    "ClientOptions",
    "ConnectionLost",
    "NoAudioDevice",
    "OptionsRefused",
    "Refused",
    "ServerMessage",
    "ServerSilent",
    "ServerUnreachable",
    "UnknownMessage",
    "UnreadableAudio",
    "UnreadableMessage",
]

_HOME = {
    "Client": "client",
    "ClientOptions": "options",
    "ServerMessage": "messages",
    "UnknownMessage": "messages",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
