"""The module `sounddevice`: loaded when it is needed, because PortAudio may be missing."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, cast

from stt_server.clients.errors import NoAudioDevice


class InputStream(Protocol):
    """What is used of `sounddevice.RawInputStream`."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class SoundDevice(Protocol):
    """What is used of the module `sounddevice`, which has no types of its own."""

    PortAudioError: type[Exception]
    RawInputStream: Callable[..., InputStream]

    def query_devices(self) -> Any: ...
    def query_hostapis(self) -> Any: ...
    def check_input_settings(
        self, *, device: int, channels: int, dtype: str, samplerate: int
    ) -> None: ...


def load_sounddevice() -> SoundDevice:
    """The module.

    Raises:
        NoAudioDevice: it or the PortAudio library beneath it is missing.
    """
    try:
        return cast(SoundDevice, import_module("sounddevice"))
    except ImportError as error:
        raise NoAudioDevice("recording needs the Python package sounddevice") from error
    except OSError as error:
        raise NoAudioDevice(
            "the PortAudio library is missing; on Debian or Ubuntu: apt install libportaudio2"
        ) from error
