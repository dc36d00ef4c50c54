"""What `--model auto` is, by what lies on the machine."""

import logging
from pathlib import Path

import pytest

from nemo_lite.registry import find
from stt_server.engine.auto import FINAL, LARGE, ROOM_FOR_BOTH, SMALL, choose, resolve_auto
from stt_server.settings import EngineName, FinalModelName, ModelSettings, NemoSettings, Settings


def settings(cache: Path, **values: object) -> Settings:
    models = ModelSettings(cache_dir=cache)
    return Settings(models=models, device="cpu", **values)  # pyright: ignore[reportArgumentType]


def pull(cache: Path, name: EngineName) -> None:
    entry = find(name)
    folder = cache / entry.repo.replace("/", "--") / entry.revision
    folder.mkdir(parents=True)
    (folder / "weights.nemo").touch()


def test_without_checkpoints_it_is_the_embedded_one_and_the_log_says_how_to_get_better(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_auto(settings(tmp_path)).model is EngineName.POCKETSPHINX
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.WARNING, "model.fallback")
    assert "stt-server models pull parakeet-eou" in vars(record)["why"]


def test_on_a_cpu_it_is_the_small_model_once_that_is_here(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pull(tmp_path, SMALL)
    pull(tmp_path, LARGE)

    found = resolve_auto(settings(tmp_path))

    assert (found.model, found.final_model) == (EngineName.PARAKEET_EOU, None)


def test_a_checkpoint_that_is_named_is_used(tmp_path: Path) -> None:
    found = resolve_auto(settings(tmp_path, nemo=NemoSettings(checkpoint="own.nemo")))

    assert found.model is EngineName.PARAKEET_EOU


def test_a_model_that_is_named_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = settings(tmp_path, model=EngineName.SCRIPTED)

    assert resolve_auto(named) is named
    assert caplog.records == []


def test_a_final_model_that_is_named_stays(tmp_path: Path) -> None:
    found = resolve_auto(settings(tmp_path, final_model=FinalModelName.CANARY_QWEN))

    assert found.final_model is FinalModelName.CANARY_QWEN


@pytest.mark.parametrize(
    ("here", "free_gpu_bytes", "model", "has_final"),
    [
        ((SMALL, LARGE, FINAL), None, SMALL, False),
        ((LARGE, FINAL), None, EngineName.POCKETSPHINX, False),
        ((SMALL, LARGE, FINAL), ROOM_FOR_BOTH, LARGE, True),
        ((SMALL, LARGE, FINAL), ROOM_FOR_BOTH - 1, LARGE, False),
        ((SMALL, LARGE), 2 * ROOM_FOR_BOTH, LARGE, False),
        ((SMALL, FINAL), 2 * ROOM_FOR_BOTH, SMALL, False),
    ],
)
def test_a_gpu_gets_the_large_model_and_with_room_the_one_for_finals(
    here: tuple[EngineName, ...], free_gpu_bytes: int | None, model: EngineName, has_final: bool
) -> None:
    final = FinalModelName.CANARY_QWEN if has_final else None

    assert choose(here, free_gpu_bytes=free_gpu_bytes) == (model, final)
