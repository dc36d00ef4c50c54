"""What is said about settings that the chosen engine does not use, and about missing packages."""

import logging
import sys

import pytest

from stt_server.engine.base import EngineUnavailable
from stt_server.engine.select import device_settings, make_engine
from stt_server.settings import EngineName, NemoSettings, Settings

OWN = NemoSettings(checkpoint="own.nemo")


@pytest.mark.parametrize(
    "model", [EngineName.POCKETSPHINX, EngineName.SCRIPTED, EngineName.CANARY_QWEN]
)
def test_a_checkpoint_that_is_not_used_is_told(
    model: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    make_engine(Settings(model=model, nemo=OWN))

    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.WARNING, "checkpoint.ignored")
    assert vars(record)["checkpoint"] == "own.nemo"
    assert model in vars(record)["why"]


def test_nothing_is_told_of_a_checkpoint_that_is_used(caplog: pytest.LogCaptureFixture) -> None:
    make_engine(Settings(model=EngineName.PARAKEET_EOU, nemo=OWN, device="cpu"))

    assert caplog.records == []


def test_a_missing_package_is_told_with_a_command_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "stt_server.engine.torch_device", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(EngineUnavailable, match=r"needs torch: pip install torch safetensors"):
        device_settings(Settings(model=EngineName.PARAKEET_EOU))
