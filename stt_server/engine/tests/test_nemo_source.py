"""What does not fit into memory is refused before it is tried."""

from pathlib import Path

import pytest

from stt_server.engine.base import EngineUnavailable
from stt_server.engine.nemo_source import NemoSource, size_bytes
from stt_server.settings import Dtype, EngineName, NemoSettings, Settings

SHARED = Path(__file__).resolve().parents[4] / "shared"
MODEL = SHARED / "models/digits-streaming.nemo"

needs_digits = pytest.mark.skipif(not MODEL.is_file(), reason="../shared/models is absent")


def source(max_streams: int | None = None) -> NemoSource:
    return NemoSource(
        Settings(
            model=EngineName.PARAKEET_EOU,
            nemo=NemoSettings(checkpoint=str(MODEL)),
            device="cpu",
            dtype=Dtype.FLOAT32,
            max_streams=max_streams,
        )
    )


def free(monkeypatch: pytest.MonkeyPatch, *readings: int) -> None:
    """So many bytes, one reading after the other; the last one stays."""
    left = list(readings)
    monkeypatch.setattr(
        "nemo_lite.salm.memory.available_bytes",
        lambda _device: left.pop(0) if len(left) > 1 else left[0],
    )


@needs_digits
def test_a_model_that_memory_has_no_room_for_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free(monkeypatch, 9_000_000)

    with pytest.raises(EngineUnavailable, match=r"^parakeet-eou needs 0\.0 GB"):
        source().open(lambda: False)


@needs_digits
def test_streams_that_memory_has_no_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 100_000_000)

    with pytest.raises(EngineUnavailable, match="room for 4000 streams of parakeet-eou needs"):
        source(max_streams=4_000).open(lambda: False)


@needs_digits
def test_capacity_is_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch").set_num_threads(1)
    free(monkeypatch, 100_000_000, 30_000_000)

    model = source().open(lambda: False)

    # A stream and its copy take 1.9 MB.
    assert 1 <= model.capacity <= 16


def test_the_size_of_a_checkpoint_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "weights").write_bytes(b"x" * 1_000)
    (tmp_path / "inner/config").write_bytes(b"y" * 24)

    assert size_bytes(tmp_path) == 1_024
    assert size_bytes(tmp_path / "weights") == 1_000


@needs_digits
@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (64, 8)])
def test_a_core_is_left_to_the_rest_of_the_server(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    monkeypatch.setattr("stt_server.engine.nemo_source.usable_cpus", lambda: cores)
    try:
        source(max_streams=1).open(lambda: False)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@needs_digits
def test_a_low_capacity_is_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stt_server.engine.nemo_source.capacity", lambda make, most: 2)

    source().open(lambda: False)

    (warning,) = [record for record in caplog.records if record.message == "capacity.low"]
    assert vars(warning)["streams"] == 2
