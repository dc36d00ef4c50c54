import asyncio
import sys
from typing import Any

import numpy as np
import pytest

from stt_server.clients.devices import InputDevice
from stt_server.clients.errors import NoAudioDevice
from stt_server.clients.levels import level_db
from stt_server.clients.microphone import Microphone
from stt_server.clients.portaudio import load_sounddevice
from stt_server.clients.tests.fake_sounddevice import FakeSoundDevice
from stt_server.protocols.base import AudioFormat

HEADSET = InputDevice(2, "USB Headset", 1, 44_100.0, is_default=True)


@pytest.mark.parametrize(
    ("rates", "channels", "chosen"),
    [
        ((16_000, 44_100), 1, AudioFormat(16_000, 1)),
        ((44_100,), 1, AudioFormat(44_100, 1)),
        ((48_000,), 2, AudioFormat(48_000, 2)),
    ],
)
def test_the_format_is_what_the_device_can_record(
    rates: tuple[int, ...], channels: int, chosen: AudioFormat
) -> None:
    assert Microphone(FakeSoundDevice(rates=rates, channels=channels), HEADSET).format == chosen


def test_a_device_that_can_record_nothing() -> None:
    with pytest.raises(NoAudioDevice, match="USB Headset: Invalid sample rate"):
        Microphone(FakeSoundDevice(rates=()), HEADSET)


async def test_packets_cross_from_the_recording_thread_in_order() -> None:
    sound = FakeSoundDevice()
    async with Microphone(sound, HEADSET) as microphone:
        stream = sound.stream
        assert stream.settings["blocksize"] == 1_600
        stream.record(b"\1\0", b"\2\0")
        packets = microphone.packets()
        assert [await anext(packets), await anext(packets)] == [b"\1\0", b"\2\0"]
        waiting = asyncio.ensure_future(anext(packets))
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.record(b"\3\0")
        assert await waiting == b"\3\0"
    assert stream.state == "closed"


async def test_stop_gives_what_was_recorded_and_ends() -> None:
    sound = FakeSoundDevice()
    async with Microphone(sound, HEADSET) as microphone:
        sound.stream.record(b"\1\0")
        microphone.stop()
        assert [packet async for packet in microphone.packets()] == [b"\1\0"]


async def test_an_unplugged_device_ends_the_packets() -> None:
    sound = FakeSoundDevice()
    async with Microphone(sound, HEADSET) as microphone:
        sound.stream.unplug()
        assert [packet async for packet in microphone.packets()] == []


async def test_what_nobody_takes_is_bounded_and_counted() -> None:
    sound = FakeSoundDevice()
    async with Microphone(sound, HEADSET) as microphone:
        sound.stream.record(*[bytes(3_200)] * 320)
        assert microphone.lost_s == pytest.approx(2.0)
        microphone.stop()
        assert len([packet async for packet in microphone.packets()]) == 300


async def test_a_device_that_cannot_be_opened() -> None:
    sound = FakeSoundDevice()
    sound.broken = True
    with pytest.raises(NoAudioDevice, match="cannot record from USB Headset: Device unavailable"):
        await Microphone(sound, HEADSET).__aenter__()


class NoPortAudio:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "sounddevice":
            raise OSError("PortAudio library not found")


def test_a_missing_portaudio_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoPortAudio(), *sys.meta_path])
    with pytest.raises(NoAudioDevice, match="apt install libportaudio2"):
        load_sounddevice()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(NoAudioDevice, match="Python package sounddevice"):
        load_sounddevice()


@pytest.mark.parametrize(
    ("samples", "level"),
    [([0] * 9, -60.0), ([-32_768] * 9, 0.0), ([3_277] * 9, -20.0), ([], -60.0)],
)
def test_level_is_in_db_of_full_scale(samples: list[int], level: float) -> None:
    assert level_db(np.array(samples, dtype="<i2").tobytes()) == pytest.approx(level, abs=0.01)
