import asyncio
import io
import signal
from collections.abc import Awaitable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stt_server.clients.client import Client
from stt_server.clients.devices import InputDevice
from stt_server.clients.errors import NoAudioDevice
from stt_server.clients.file import AudioFile, RealTime
from stt_server.clients.lines import LogOutput
from stt_server.clients.microphone import Microphone
from stt_server.clients.streaming import Streaming
from stt_server.clients.tests.fake_server import FINAL, FakeServer
from stt_server.clients.tests.fake_sounddevice import FakeSoundDevice

HEADSET = InputDevice(2, "USB Headset", 1, 16_000.0, is_default=True)
BACKLOG = {"type": "warning", "code": "BACKLOG", "seconds": 12.0}


class Recorder(LogOutput):
    """A display that remembers when what was shown."""

    def __init__(self) -> None:
        super().__init__(io.StringIO(), io.StringIO())
        self.positions: list[float] = []
        self.levels: list[float | None] = []

    def sent(self, seconds: float, level_db: float | None = None) -> None:
        self.positions.append(round(seconds, 3))
        self.levels.append(level_db)

    @property
    def shown(self) -> str:
        return self._output.getvalue()  # type: ignore[attr-defined]

    @property
    def noted(self) -> str:
        return self._notes.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    path = tmp_path / "speech.wav"
    soundfile.write(path, np.zeros(4_000, dtype=np.int16), 16_000)
    return path


async def test_a_file_is_sent_when_a_microphone_would_have_recorded_it(speech: Path) -> None:
    now, display = 0.0, Recorder()
    sent_at: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        sent_at.append(round(now, 3))

    async with FakeServer() as server:
        with AudioFile(speech) as file:
            streaming = Streaming(Client(server.url), display, save=[])
            await streaming.send_file(file, clock=RealTime(now=lambda: now, sleep=sleep))
    assert sent_at == display.positions == [0.1, 0.2, 0.25]
    assert len(server.audio) == 8_000


@pytest.mark.parametrize(("clock", "noted"), [(RealTime(), True), (None, False)])
async def test_a_backlog_is_news_only_for_live_audio(
    clock: RealTime | None, noted: bool, speech: Path
) -> None:
    display = Recorder()
    async with FakeServer(on_audio=[BACKLOG]) as server:
        with AudioFile(speech) as file:
            await Streaming(Client(server.url), display, save=[]).send_file(file, clock=clock)
    assert display.noted == ("! the server is 12 s of audio behind\n" if noted else "")


async def start_recording(
    server: FakeServer, display: Recorder, sound: FakeSoundDevice
) -> Awaitable[None]:
    streaming = Streaming(Client(server.url), display, save=[])
    task = asyncio.ensure_future(streaming.send_microphone(Microphone(sound, HEADSET)))
    await sound.started.wait()
    return task


async def test_ctrl_c_at_the_microphone_gets_the_last_text() -> None:
    usual = signal.getsignal(signal.SIGINT)
    sound, display = FakeSoundDevice(), Recorder()
    async with FakeServer() as server:
        running = await start_recording(server, display, sound)
        sound.stream.record(b"\0\x40" * 1_600, b"\0\0" * 1_600)
        signal.raise_signal(signal.SIGINT)
        await running
    assert signal.getsignal(signal.SIGINT) is usual
    assert bytes(server.audio) == b"\0\x40" * 1_600 + b"\0\0" * 1_600
    assert server.texts[-1] == {"type": "finish"}
    assert "✓ please send the report" in display.shown
    assert sound.stream.state == "closed"
    assert display.positions == [0.1, 0.2]
    assert display.levels == [pytest.approx(-6.02, abs=0.01), -60.0]


async def test_the_last_text_is_waited_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stt_server.clients.streaming._LAST_TEXT_S", 0.05)
    sound, display = FakeSoundDevice(), Recorder()
    async with FakeServer(answers_finish=False) as server:
        running = await start_recording(server, display, sound)
        signal.raise_signal(signal.SIGINT)
        await running
    assert display.noted.splitlines() == [
        "! recording from USB Headset; Ctrl-C stops",
        "! the last text did not come in time",
    ]


async def test_a_microphone_that_goes_away_is_told_after_its_text() -> None:
    sound, display, usual = FakeSoundDevice(), Recorder(), signal.getsignal(signal.SIGINT)
    async with FakeServer(on_audio=[], on_end=[FINAL]) as server:
        running = await start_recording(server, display, sound)
        sound.stream.record(b"\0\0")
        sound.stream.unplug()
        with pytest.raises(NoAudioDevice, match="went away"):
            await running
    assert "✓ please send the report" in display.shown
    assert signal.getsignal(signal.SIGINT) is usual


async def test_lost_audio_is_noted() -> None:
    sound, display = FakeSoundDevice(), Recorder()
    async with FakeServer() as server:
        running = await start_recording(server, display, sound)
        sound.stream.record(*[bytes(320)] * 320)
        signal.raise_signal(signal.SIGINT)
        await running
    assert display.noted.endswith("! too slow: 2.0 s of audio lost so far\n")
