"""The part of the module `sounddevice` that is used, without hardware."""

from asyncio import Event
from collections.abc import Callable
from threading import Thread
from typing import Any


class PortAudioError(Exception):
    pass


class FakeStream:
    """A stream whose recording a test plays, in a thread of its own as PortAudio does."""

    def __init__(self, started: Event, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.state = "open"
        self._started = started

    def start(self) -> None:
        self.state = "started"
        self._started.set()

    def stop(self) -> None:
        self.state = "stopped"
        self.settings["finished_callback"]()

    def close(self) -> None:
        self.state = "closed"

    def record(self, *packets: bytes) -> None:
        callback = self.settings["callback"]
        self._in_thread(lambda: [callback(packet, len(packet) // 2, None, 0) for packet in packets])

    def unplug(self) -> None:
        self._in_thread(self.settings["finished_callback"])

    def _in_thread(self, action: Callable[[], object]) -> None:
        thread = Thread(target=action)
        thread.start()
        thread.join()


class FakeSoundDevice:
    PortAudioError = PortAudioError
    stream: FakeStream
    """The one that was opened."""

    def __init__(self, *, rates: tuple[int, ...] = (16_000,), channels: int = 1) -> None:
        self.rates = rates
        self.channels = channels
        self.broken = False
        self.started = Event()

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"default_input_device": 2}]

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            device("Built-in Microphone", 2, 44_100.0),
            device("Speakers", 0, 48_000.0),
            device("USB Headset", 1, 48_000.0),
        ]

    def check_input_settings(
        self, *, device: int, channels: int, dtype: str, samplerate: int
    ) -> None:
        if samplerate not in self.rates or channels != self.channels:
            raise PortAudioError("Invalid sample rate")

    def RawInputStream(self, **settings: Any) -> FakeStream:
        if self.broken:
            raise PortAudioError("Device unavailable")
        self.stream = FakeStream(self.started, settings)
        return self.stream


def device(name: str, channels: int, rate: float) -> dict[str, Any]:
    return {"name": name, "max_input_channels": channels, "default_samplerate": rate}
