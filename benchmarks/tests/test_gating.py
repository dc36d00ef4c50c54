"""The benchmark of gating: it hears what is said, and counts what the model is shown."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[1]))

import gating
import torch

from stt_server.engine.silero import load_silero
from stt_server.settings import NemoSettings

pytestmark = pytest.mark.skipif(not gating.MODEL.is_file(), reason="../shared is absent")


def test_the_same_words_are_in_a_row() -> None:
    singles = gating.recordings()
    rows = gating.in_a_row(singles)
    counts = [sum(len(talk.words) for talk in talks) for talks in (singles, rows)]
    assert counts[1] == gating.ORDERS * counts[0] > 0
    samples = [sum(len(talk.samples) for talk in talks) for talks in (singles, rows)]
    assert samples[1] > gating.ORDERS * samples[0]


@pytest.mark.parametrize("is_gated", [True, False])
async def test_a_session_is_heard_and_measured(is_gated: bool) -> None:
    torch.set_num_threads(1)
    talks = gating.judged(gating.recordings()[:2], load_silero())
    nemo = NemoSettings(checkpoint=str(gating.MODEL), gating=is_gated)
    whole = [talk.words for talk in talks]
    row = await gating.hear(talks, nemo, "so", whole)
    assert (row.errors, row.words) == (0, sum(map(len, whole)))
    assert (row.heard_share < 0.99) if is_gated else (row.heard_share == 1.0)
    assert "| so | 0.00 | 0 |" in gating.report({"Two": [row]})
