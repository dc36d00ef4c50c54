"""Which microphone: list them, and choose one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stt_server.clients.errors import NoAudioDevice
from stt_server.clients.portaudio import SoundDevice


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that records. `sample_rate` is the one it prefers."""

    index: int
    name: str
    channels: int
    sample_rate: float
    is_default: bool

    def __str__(self) -> str:
        mark = "*" if self.is_default else " "
        return f"{mark} {self.index:>3}  {self.name}  ({self.channels} ch, {self.sample_rate:g} Hz)"


def input_devices(sound: SoundDevice) -> list[InputDevice]:
    """Every device that records; the system's default is marked."""
    hosts: Sequence[Mapping[str, Any]] = sound.query_hostapis()
    default = next((host["default_input_device"] for host in hosts), -1)
    rows: Sequence[Mapping[str, Any]] = sound.query_devices()
    return [
        InputDevice(
            index=index,
            name=row["name"],
            channels=row["max_input_channels"],
            sample_rate=row["default_samplerate"],
            is_default=index == default,
        )
        for index, row in enumerate(rows)
        if row["max_input_channels"] > 0
    ]


def choose_device(
    devices: Sequence[InputDevice],
    wanted: str | None,
    *,
    ask: Callable[[Sequence[InputDevice], str], str] | None,
) -> InputDevice:
    """The wanted device, the only one, the one the user picks, or the default.

    Args:
        wanted: a device's number, its name, or a part of its name.
        ask: shows the devices and what was wrong with the last answer, and returns what the user
            types, nothing for the default. None when nobody can be asked.

    Raises:
        NoAudioDevice: there is none, or none fits `wanted`.
    """
    if not devices:
        raise NoAudioDevice("no microphone found")
    if wanted is not None:
        return _find(devices, wanted)
    default = next((device for device in devices if device.is_default), devices[0])
    if len(devices) == 1 or ask is None:
        return default
    complaint = ""
    while answer := ask(devices, complaint).strip():
        try:
            return _find(devices, answer)
        except NoAudioDevice as error:
            complaint = str(error)
    return default


def _find(devices: Sequence[InputDevice], wanted: str) -> InputDevice:
    if wanted.isdecimal():
        found = [device for device in devices if device.index == int(wanted)]
    else:
        name = wanted.casefold()
        exact = [device for device in devices if device.name.casefold() == name]
        found = exact or [device for device in devices if name in device.name.casefold()]
    if len(found) != 1:
        fault = "several microphones fit" if found else "no microphone fits"
        raise NoAudioDevice(f"{fault} {wanted!r}; --list-devices shows them")
    return found[0]
