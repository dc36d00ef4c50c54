"""Variables of the NeMo FastConformer server as settings of this one."""

import os
from pathlib import Path

import pytest

from stt_server.settings import (
    DecoderName,
    EngineName,
    as_variables,
    load_settings,
    old_variables,
)

OLD = {
    "ASR_HOST": "0.0.0.0",
    "ASR_PORT": "8080",
    "ASR_MODEL": "nvidia/stt_en_fastconformer_hybrid_large_streaming_multi",
    "ASR_ATT_CTX": "70,1",
    "ASR_DECODER": "ctc",
    "ASR_DEVICE": "cuda:1",
    "ASR_STEP_MS": "40",
    "ASR_MAX_BATCH": "64",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests."""
    for name in list(os.environ):  # noqa: TID251
        if name.startswith(("STT_", "ASR_")):
            monkeypatch.delenv(name)


def test_every_old_variable_sets_something(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OLD.items():
        monkeypatch.setenv(name, value)

    settings = load_settings({})

    assert (settings.host, settings.fastconformer.port) == ("0.0.0.0", 8_080)
    assert (settings.model, settings.nemo.checkpoint) == (EngineName.FASTCONFORMER_MULTI, None)
    assert (settings.lookahead_ms, settings.decoder) == (80, DecoderName.CTC)
    assert (settings.device, settings.nemo.tick_ms, settings.max_streams) == ("cuda:1", 40, 64)


def test_what_to_write_instead_sets_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OLD.items():
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    instead = [as_variables(values) for values in old_variables().values()]

    for name in OLD:
        monkeypatch.delenv(name)
    for variable in " ".join(instead).split():
        monkeypatch.setenv(*variable.split("=", 1))

    assert load_settings({}).model_dump() == settings.model_dump()


@pytest.mark.parametrize(
    ("named", "model", "checkpoint"),
    [
        ("nvidia/nemotron-speech-streaming-en-0.6b", EngineName.NEMOTRON_EN, None),
        ("parakeet_realtime_eou_120m-v1", EngineName.PARAKEET_EOU, None),
        ("parakeet-eou", EngineName.PARAKEET_EOU, None),
        ("canary-qwen", EngineName.CANARY_QWEN, None),
        ("/models/own.nemo", EngineName.FASTCONFORMER_MULTI, "/models/own.nemo"),
        ("own.nemo", EngineName.FASTCONFORMER_MULTI, "own.nemo"),
        ("~/own", EngineName.FASTCONFORMER_MULTI, "~/own"),
        ("nvidia/another-one", EngineName.FASTCONFORMER_MULTI, "nvidia/another-one"),
    ],
)
def test_a_model_is_a_published_one_or_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, named: str, model: EngineName, checkpoint: str | None
) -> None:
    monkeypatch.setenv("ASR_MODEL", named)

    settings = load_settings({})

    assert (settings.model, settings.nemo.checkpoint) == (model, checkpoint)


def test_a_folder_that_is_there_is_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASR_MODEL", "own")

    assert load_settings({}).nemo.checkpoint == "own"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ASR_MODEL", "hal9000", "no model called 'hal9000'"),
        ("ASR_MODEL", "sortformer", "cannot be served"),
        ("ASR_ATT_CTX", "70", "70,1"),
        ("ASR_ATT_CTX", "70,-1", "70,1"),
        ("ASR_ATT_CTX", "wide,1", "70,1"),
    ],
)
def test_what_means_nothing_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ValueError, match=f"^{variable}: .*{said}"):
        load_settings({})


@pytest.mark.parametrize(
    ("context", "lookahead_ms"), [("70,0", 0), ("[70, 6]", 480), ("-1,13", 1_040), ("70,2", 160)]
)
def test_right_context_is_counted_in_frames_of_80_ms(
    monkeypatch: pytest.MonkeyPatch, context: str, lookahead_ms: int
) -> None:
    monkeypatch.setenv("ASR_ATT_CTX", context)

    assert load_settings({}).lookahead_ms == lookahead_ms


def test_flags_win_over_variables_over_old_ones_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("host = '1'\ndevice = 'cpu'\nmax_streams = 1\n[nemo]\ntick_ms = 1\nthreads = 1")
    for name, value in OLD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STT_DEVICE", "mps")
    monkeypatch.setenv("STT_HOST", "2")

    settings = load_settings({"host": "3"}, file=file)

    assert (settings.host, settings.device, settings.max_streams) == ("3", "mps", 64)
    assert (settings.nemo.tick_ms, settings.nemo.threads) == (40, 1)


def test_a_model_that_is_named_otherwise_does_not_get_the_old_ones_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASR_MODEL", "/models/own.nemo")

    settings = load_settings({"model": "nemotron-en"})

    assert (settings.model, settings.nemo.checkpoint) == (EngineName.NEMOTRON_EN, None)


def test_an_old_published_model_does_not_get_the_files_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[nemo]\ncheckpoint = '/models/own.nemo'")
    monkeypatch.setenv("ASR_MODEL", "nemotron-en")

    assert load_settings({}, file=file).nemo.checkpoint is None


def test_empty_and_unknown_old_variables_set_nothing() -> None:
    assert old_variables({"ASR_PORT": " ", "ASR_LANGUAGE": "en"}) == {}
