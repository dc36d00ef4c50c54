"""The loading benchmark on a tiny model: its archive loads, and its table is right."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import load_model
import sentencepiece
from full_size import CONFIGS

import nemo_lite

linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="measures memory through /proc"
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "tiny.nemo"
    load_model.write_nemo("tiny", path)
    return path


def test_the_archive_is_a_checkpoint(archive: Path) -> None:
    model = nemo_lite.load(archive)
    assert model.tokenizer.size == CONFIGS["tiny"]["decoder"]["vocab_size"]
    assert model.lookaheads == (13, 6, 1, 0)


def test_tokenizer_has_the_size_of_the_vocabulary() -> None:
    model = load_model.tokenizer_model(300)
    assert sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() == 300


@linux
def test_measures_a_dtype_in_a_process_of_its_own(archive: Path) -> None:
    reading, (row,), missing = load_model.measure(archive, 1, ["float32"])
    assert not missing
    assert reading.cat > 0
    assert row.seconds > 0
    size = archive.stat().st_size / load_model.MIB
    assert 0.5 * size < row.peak_mib < 1_000


def test_table_relates_loading_to_reading_and_to_the_weights() -> None:
    rows = [load_model.Row("float32", 3.0, 220.0)]
    text = load_model.table(200 * load_model.MIB, load_model.Reading(1.0, 2.0), rows)
    assert re.search(r"\| float32 \| 3\.00 \| 3\.0 \| 1\.5 \| 220 \| 1\.10 \|", text)
