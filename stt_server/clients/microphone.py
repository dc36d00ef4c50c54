"""The microphone as a stream of packets."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from stt_server.clients.devices import InputDevice
from stt_server.clients.errors import NoAudioDevice
from stt_server.clients.portaudio import InputStream, SoundDevice
from stt_server.events import SAMPLE_RATE
from stt_server.protocols.base import MAX_RATE, AudioFormat

_PACKET_S = 0.1
_KEPT_PACKETS = 300
"""Half a minute: what a network may stall before audio is lost."""


class Microphone:
    """Records from one device while it is open.

    PortAudio calls back in a thread of its own; packets cross to the event loop through a bounded
    queue. What does not fit is counted in `lost_s`, never forgotten silently.
    """

    def __init__(self, sound: SoundDevice, device: InputDevice) -> None:
        """Find a format that the device can record.

        Raises:
            NoAudioDevice: it can record none.
        """
        self.name = device.name
        self.format = _recordable(sound, device)
        self._sound = sound
        self._device = device
        self._lock = threading.Lock()
        self._packets: deque[bytes] = deque()
        self._ended = False
        self._lost_packets = 0
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stream: InputStream | None = None

    @property
    def lost_s(self) -> float:
        """Seconds of audio that were lost because nobody took them in time."""
        return self._lost_packets * _PACKET_S

    async def __aenter__(self) -> Self:
        """Start to record.

        Raises:
            NoAudioDevice: the device cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self._stream = self._sound.RawInputStream(
                device=self._device.index,
                samplerate=self.format.sample_rate,
                channels=self.format.channels,
                dtype="int16",
                blocksize=round(self.format.sample_rate * _PACKET_S),
                callback=self._recorded,
                finished_callback=self._recording_ended,
            )
            self._stream.start()
        except self._sound.PortAudioError as error:
            self._close()
            raise NoAudioDevice(f"cannot record from {self._device.name}: {error}") from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def stop(self) -> None:
        """Record no more; `packets` ends after what was recorded so far."""
        if self._stream is not None:
            self._stream.stop()
        self._recording_ended()

    async def packets(self) -> AsyncIterator[bytes]:
        """PCM16 packets of 100 ms, until `stop` or until the device goes away."""
        while True:
            self._wake.clear()
            with self._lock:
                packet = self._packets.popleft() if self._packets else None
                ended = self._ended
            if packet is not None:
                yield packet
            elif ended:
                return
            else:
                await self._wake.wait()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _recorded(self, data: Any, frames: int, time: Any, status: Any) -> None:
        """In PortAudio's thread."""
        with self._lock:
            if len(self._packets) >= _KEPT_PACKETS:
                self._lost_packets += 1
                return
            self._packets.append(bytes(data))
        self._wake_reader()

    def _recording_ended(self) -> None:
        """In PortAudio's thread, or ours."""
        with self._lock:
            self._ended = True
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)


def _recordable(sound: SoundDevice, device: InputDevice) -> AudioFormat:
    """16 kHz if the device can, else its own rate; the server resamples."""
    reason: Exception | None = None
    for rate in (SAMPLE_RATE, round(device.sample_rate), MAX_RATE):
        for channels in (1, 2):
            try:
                sound.check_input_settings(
                    device=device.index, channels=channels, dtype="int16", samplerate=rate
                )
            except (sound.PortAudioError, ValueError) as error:
                reason = error
            else:
                if rate <= MAX_RATE:
                    return AudioFormat(rate, channels)
    raise NoAudioDevice(f"cannot record from {device.name}: {reason}")
