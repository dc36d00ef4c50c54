"""Self-hosted, real-time speech-to-text server for conversational agents."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stt_server.app import create_app
    from stt_server.clients.client import Client
    from stt_server.clients.options import ClientOptions
    from stt_server.protocols.native_messages import AudioFrame, TranscriptionSegment
    from stt_server.settings import Settings

__all__ = [
    "AudioFrame",
    "Client",
    "ClientOptions",
    "Settings",
    "TranscriptionSegment",
    "__version__",
    "create_app",
]

try:
    __version__ = version("stt-server")
except PackageNotFoundError:  # run from a checkout without installing
    __version__ = "0.0.0"

_HOMES = {
    "AudioFrame": "stt_server.protocols.native_messages",
    "Client": "stt_server.clients.client",
    "ClientOptions": "stt_server.clients.options",
    "Settings": "stt_server.settings",
    "TranscriptionSegment": "stt_server.protocols.native_messages",
    "create_app": "stt_server.app",
}


def __getattr__(name: str) -> object:
    """Load public names when they are first used: `import stt_server` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
