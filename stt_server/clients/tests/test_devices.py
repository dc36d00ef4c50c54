from collections.abc import Sequence

import pytest

from stt_server.clients.devices import InputDevice, choose_device, input_devices
from stt_server.clients.errors import NoAudioDevice
from stt_server.clients.tests.fake_sounddevice import FakeSoundDevice

BUILT_IN = InputDevice(0, "Built-in Microphone", 2, 44_100.0, is_default=False)
HEADSET = InputDevice(2, "USB Headset", 1, 48_000.0, is_default=True)
LINE = InputDevice(3, "USB Line In", 2, 48_000.0, is_default=False)
SEVERAL = [BUILT_IN, HEADSET, LINE]


def test_only_devices_that_record_are_listed() -> None:
    assert input_devices(FakeSoundDevice()) == [BUILT_IN, HEADSET]


def test_no_device() -> None:
    with pytest.raises(NoAudioDevice, match="no microphone found"):
        choose_device([], None, ask=None)


def test_the_only_device_needs_no_question() -> None:
    assert choose_device([BUILT_IN], None, ask=refuse_to_answer) is BUILT_IN


def test_several_and_nobody_to_ask_gives_the_default() -> None:
    assert choose_device(SEVERAL, None, ask=None) is HEADSET


@pytest.mark.parametrize(
    ("wanted", "device"), [("3", LINE), ("usb headset", HEADSET), ("line", LINE)]
)
def test_a_wanted_device_needs_no_question(wanted: str, device: InputDevice) -> None:
    assert choose_device(SEVERAL, wanted, ask=refuse_to_answer) is device


@pytest.mark.parametrize(("wanted", "words"), [("1", "no microphone"), ("usb", "several")])
def test_a_device_that_is_not_there(wanted: str, words: str) -> None:
    with pytest.raises(NoAudioDevice, match=words):
        choose_device(SEVERAL, wanted, ask=None)


def test_the_user_is_asked_until_the_answer_fits() -> None:
    answers, complaints = ["9\n", "built\n"], []

    def ask(devices: Sequence[InputDevice], complaint: str) -> str:
        assert devices == SEVERAL
        complaints.append(complaint)
        return answers.pop(0)

    assert choose_device(SEVERAL, None, ask=ask) is BUILT_IN
    assert complaints == ["", "no microphone fits '9'; --list-devices shows them"]


def test_an_empty_answer_is_the_default() -> None:
    assert choose_device(SEVERAL, None, ask=lambda _devices, _complaint: "\n") is HEADSET


def refuse_to_answer(devices: Sequence[InputDevice], complaint: str) -> str:
    raise AssertionError("asked")
