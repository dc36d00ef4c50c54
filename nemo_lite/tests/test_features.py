"""The log-mel front end: NeMo's numbers, and the same ones however the audio arrives."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nemo_lite.config import PreprocessorConfig
from nemo_lite.errors import CheckpointError, ShapeError, StreamStateError, UnsupportedError
from nemo_lite.features import UNKNOWN_LENGTH, AudioPreprocessor, MelStream
from nemo_lite.tests.goldens import SHARED, Case, case_names, load_case, needs_models

Normalization = Literal["per_feature"] | None

HOP = 160
SILENCE = float(np.log(2.0**-24))
CONFIG = PreprocessorConfig(n_mels=80)
PREPROCESSOR = AudioPreprocessor(CONFIG)
TABLES = {"featurizer.fb": "filterbank", "featurizer.window": "window"}
BORDERS = [0, 1, 2, 56, 399, 400, 401, 3_000]
BORDERS += [hops * HOP + extra for hops in range(1, 6) for extra in (-1, 0, 1, 39, 40, 41)]


def noise(samples: int, *, rows: int | None = None, seed: int = 0) -> Tensor:
    """Speech-like level with quiet stretches: (samples,) or (rows, samples)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (samples,) if rows is None else (rows, samples)
    at = torch.arange(samples)
    return torch.randn(shape, generator=generator) * 0.1 * (at // 500 % 3 != 1)


def whole(preprocessor: AudioPreprocessor, samples: Tensor) -> Tensor:
    """The valid frames of one recording: (n_mels, T)."""
    mel, lengths = preprocessor(samples[None], torch.tensor([len(samples)]))
    return mel[0, :, : int(lengths)]


def streamed(stream: MelStream, packets: Iterable[Tensor]) -> Tensor:
    return torch.cat([*(stream.push(packet) for packet in packets), stream.finish()], dim=1)


def cut(samples: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Packets of these sizes, and one more with the rest."""
    ends = np.minimum(np.cumsum(sizes, dtype=int), len(samples))
    return list(torch.tensor_split(samples, torch.from_numpy(ends)))


def span(
    preprocessor: AudioPreprocessor, samples: Tensor, frame: int, frames: int
) -> tuple[Tensor, Tensor]:
    """The samples that `frames` frames from `frame` on need, and where they begin."""
    first = frame * HOP + preprocessor.span_offset
    at = first + torch.arange(preprocessor.span_samples(frames))
    known = (at >= 0) & (at < len(samples))
    values = torch.where(known, samples[at.clamp(0, len(samples) - 1)], torch.nan)
    return values[None], torch.tensor([first])


def assert_near(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def golden_input(case: Case) -> tuple[Tensor, Tensor]:
    return case.tensors["in.pcm16"].float() / 32_768, case.tensors["in.length"]


@pytest.mark.parametrize("name", case_names("preprocessor"))
def test_mel_is_nemos(name: str) -> None:
    case = load_case("preprocessor", name)
    mel, lengths = AudioPreprocessor(PreprocessorConfig.from_nemo(case.config))(*golden_input(case))
    assert torch.equal(lengths, case.tensors["out.mel_length"])
    atol = 2e-3 if case.config["normalize"] == "per_feature" else 1e-3
    assert_near(mel, case.tensors["out.mel"], atol)


@pytest.mark.parametrize("name", [n for n in case_names("preprocessor") if n.endswith("NA")])
def test_stored_tables_are_nemos_and_load_strictly(name: str) -> None:
    case = load_case("preprocessor", name)
    stored = {key: case.tensors[f"out.{kind}"] for key, kind in TABLES.items()}
    preprocessor = AudioPreprocessor(PreprocessorConfig.from_nemo(case.config))
    computed = preprocessor.state_dict()
    assert sorted(computed) == sorted(case.expected["state_dict_keys"])
    for key, table in stored.items():
        assert_near(computed[key], table, 1e-6)
    preprocessor.load_state_dict(stored, strict=True, assign=True)
    assert_near(preprocessor(*golden_input(case))[0], case.tensors["out.mel"], 1e-3)


@pytest.mark.parametrize("name", [n for n in case_names("preprocessor") if n.endswith("NA")])
def test_power_spectrum_is_nemos(name: str) -> None:
    case = load_case("preprocessor", name)
    expected = case.tensors["out.power_spectrum_item0"][0]
    bins, frames = expected.shape
    # With one filter per bin and almost no guard, the log-mel is the logarithm of the power.
    config = replace(PreprocessorConfig.from_nemo(case.config), n_mels=bins, log_guard=1e-30)
    preprocessor = AudioPreprocessor(config)
    state = preprocessor.state_dict() | {"featurizer.fb": torch.eye(bins)[None]}
    preprocessor.load_state_dict(state)
    samples, lengths = golden_input(case)
    power = whole(preprocessor, samples[0, : int(lengths[0])])[:, :frames].exp()
    expected = expected[:, : power.shape[1]]  # NeMo masks the last one
    assert power.shape[1] >= frames - 1 > 0
    torch.testing.assert_close(power, expected, atol=1e-6 * float(expected.max()), rtol=1e-4)


@needs_models
def test_mel_of_real_speech_is_nemos() -> None:
    with np.load(SHARED / "models" / "digits-numerics.npz") as arrays:
        samples, expected = torch.from_numpy(arrays["audio"]), torch.from_numpy(arrays["mel"])
    mel, lengths = PREPROCESSOR(samples[None], torch.tensor([len(samples)]))
    assert int(lengths) == len(samples) // HOP
    assert_near(mel[0], expected, 1e-3)


@pytest.mark.parametrize(
    ("rate", "n_fft", "n_mels"),
    [(16_000, 512, 80), (16_000, 512, 128), (8_000, 256, 64), (22_050, 1_024, 40)],
)
def test_filterbank_is_librosas(rate: int, n_fft: int, n_mels: int) -> None:
    filters = pytest.importorskip("librosa.filters")
    config = PreprocessorConfig(n_mels, rate, window_samples=200, hop_samples=80, n_fft=n_fft)
    expected = filters.mel(sr=rate, n_fft=n_fft, n_mels=n_mels)
    computed = AudioPreprocessor(config).state_dict()["featurizer.fb"]
    assert_near(computed, torch.from_numpy(expected)[None], 1e-7)


def test_silence_is_the_logarithm_of_the_guard() -> None:
    mel = whole(PREPROCESSOR, torch.zeros(1_600))
    assert_near(mel, torch.full((80, 10), SILENCE))


@pytest.mark.parametrize("normalize", [None, "per_feature"])
@pytest.mark.parametrize(("length", "frames"), [(0, 0), (1, 0), (159, 0), (160, 1), (319, 1)])
def test_recordings_shorter_than_a_frame_or_two_are_finite(
    length: int, frames: int, normalize: Normalization
) -> None:
    preprocessor = AudioPreprocessor(replace(CONFIG, normalize=normalize))
    mel, lengths = preprocessor(noise(400)[None], torch.tensor([length]))
    assert lengths.tolist() == [frames]
    assert bool(mel.isfinite().all())
    assert not mel[..., frames:].any()
    assert (normalize is None and frames > 0) == bool(mel.any())  # one frame normalises to 0


@pytest.mark.parametrize("samples", [0, 159])
def test_a_batch_without_a_whole_hop_gives_one_frame_of_zeros(samples: int) -> None:
    mel, lengths = PREPROCESSOR(noise(samples, rows=2), torch.tensor([samples, 0]))
    assert torch.equal(mel, torch.zeros(2, 80, 1))
    assert lengths.tolist() == [0, 0]


@pytest.mark.parametrize(("samples", "width"), [(14 * HOP, 16), (15 * HOP, 16), (16 * HOP, 32)])
def test_frames_are_padded_to_a_multiple(samples: int, width: int) -> None:
    padded = AudioPreprocessor(replace(CONFIG, pad_to=16))
    mel, lengths = padded(noise(samples)[None], torch.tensor([samples]))
    assert mel.shape == (1, 80, width)
    assert torch.equal(mel[0, :, : int(lengths)], whole(PREPROCESSOR, noise(samples)))
    assert not mel[..., int(lengths) :].any()


@pytest.mark.parametrize("normalize", [None, "per_feature"])
def test_what_lies_after_the_length_never_leaks(normalize: Normalization) -> None:
    preprocessor = AudioPreprocessor(replace(CONFIG, normalize=normalize))
    for length in (1_599, 1_600, 1_601, 1_999):
        clean, garbage = noise(2_000, rows=1), noise(2_000, rows=1)
        clean[:, length:], garbage[:, length:] = 0.0, torch.nan
        lengths = torch.tensor([length])
        assert torch.equal(preprocessor(garbage, lengths)[0], preprocessor(clean, lengths)[0])


def test_a_row_does_not_depend_on_other_rows() -> None:
    preprocessor = AudioPreprocessor(replace(CONFIG, normalize="per_feature"))
    samples, lengths = noise(4_000, rows=5), torch.tensor([4_000, 0, 1_000, 3_999, 170])
    samples[1] = torch.inf
    together, _ = preprocessor(samples, lengths)
    for row in range(5):
        alone, _ = preprocessor(samples[row : row + 1], lengths[row : row + 1])
        assert_near(together[row], alone[0])


def test_long_recordings_equal_their_parts() -> None:
    samples = noise(2_500 * HOP)
    mel = whole(PREPROCESSOR, samples)
    assert mel.shape == (80, 2_500)
    for frame in (0, 1_020, 2_044, 2_490):
        spans, first = span(PREPROCESSOR, samples, frame, 10)
        part = PREPROCESSOR.frames(spans, first, torch.tensor([len(samples)]))
        assert_near(part[0], mel[:, frame : frame + 10])


@pytest.mark.parametrize("total", [0, 1, 160, 400, 1_239, 1_240, 1_600])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_every_frame_of_a_span_is_the_whole_files(count: int, total: int) -> None:
    samples = noise(total) if total else torch.full((1,), torch.nan)
    expected = torch.zeros(80, 60)
    expected[:, 20 : 20 + total // HOP] = whole(PREPROCESSOR, noise(total))
    for frame in range(-20, 40 - count):
        spans, first = span(PREPROCESSOR, samples, frame, count)
        mel = PREPROCESSOR.frames(spans, first, torch.tensor([total]))[0]
        wanted = expected[:, frame + 20 : frame + 20 + count]
        assert_near(mel, wanted)
        assert torch.equal(mel == 0, wanted == 0)


def test_streams_at_different_positions_share_a_call() -> None:
    samples = noise(3_000)
    cases = [
        (-7, UNKNOWN_LENGTH),
        (0, UNKNOWN_LENGTH),
        (9, UNKNOWN_LENGTH),
        (16, 3_000),
        (30, 3_000),
    ]
    rows = [span(PREPROCESSOR, samples, frame, 8) for frame, _ in cases]
    totals = torch.tensor([total for _, total in cases])
    together = PREPROCESSOR.frames(
        torch.cat([values for values, _ in rows]), torch.cat([first for _, first in rows]), totals
    )
    for row, (values, first) in enumerate(rows):
        alone = PREPROCESSOR.frames(values, first, totals[row : row + 1])
        assert_near(together[row], alone[0])
    assert together[0, :, :7].count_nonzero() == 0
    assert_near(together[2], whole(PREPROCESSOR, samples)[:, 9:17])
    assert_near(together[3, :, :2], whole(PREPROCESSOR, samples)[:, 16:])


@pytest.mark.parametrize(
    ("n_fft", "window", "hop"),
    [(512, 400, 160), (512, 320, 160), (400, 400, 100), (512, 401, 160), (256, 200, 190)],
)
def test_a_frame_is_complete_when_its_last_sample_is_known(
    n_fft: int, window: int, hop: int
) -> None:
    config = PreprocessorConfig(40, window_samples=window, hop_samples=hop, n_fft=n_fft)
    preprocessor = AudioPreprocessor(config)
    samples = noise(2_000)
    for known in range(1, 1_200, 13):
        complete = preprocessor.complete_frames(known)
        short, long = whole(preprocessor, samples[:known]), whole(preprocessor, samples)
        assert complete <= short.shape[1]
        assert_near(short[:, :complete], long[:, :complete])
        assert preprocessor.complete_frames(known + window) > complete
    assert_near(
        streamed(preprocessor.stream(), cut(samples, [97] * 30)), whole(preprocessor, samples)
    )


def test_frames_need_no_values_to_know_their_shape() -> None:
    preprocessor = AudioPreprocessor(CONFIG).to("meta")
    spans = torch.empty(3, preprocessor.span_samples(16), device="meta")
    position = torch.empty(3, dtype=torch.int64, device="meta")
    assert preprocessor.frames(spans, position, position).shape == (3, 80, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_frames_in_a_cuda_graph_equal_the_cpus() -> None:
    preprocessor = AudioPreprocessor(CONFIG).to("cuda")
    samples = noise(6_000)
    rows = [span(PREPROCESSOR, samples, frame, 16) for frame in (-7, 0, 10, 25)]
    spans, first = (torch.cat(parts) for parts in zip(*rows, strict=True))
    total = torch.tensor([UNKNOWN_LENGTH, UNKNOWN_LENGTH, UNKNOWN_LENGTH, 6_000])
    inputs = [torch.zeros_like(tensor, device="cuda") for tensor in (spans, first, total)]
    preprocessor.frames(*inputs)  # plans the transform, which a capture must not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mel = preprocessor.frames(*inputs)
    for held, value in zip(inputs, (spans, first, total), strict=True):
        held.copy_(value)
    graph.replay()
    assert_near(mel.cpu(), PREPROCESSOR.frames(spans, first, total), 1e-4)


@settings(deadline=None, max_examples=60)
@given(
    length=st.one_of(st.sampled_from(BORDERS), st.integers(0, 3_000)),
    sizes=st.lists(st.one_of(st.sampled_from([0, 1, 159, 160, 161, 400]), st.integers(0, 900))),
)
def test_packets_of_any_size_give_the_whole_files_frames(length: int, sizes: list[int]) -> None:
    samples = noise(length, seed=length)
    mel = streamed(PREPROCESSOR.stream(), cut(samples, sizes))
    assert_near(mel, whole(PREPROCESSOR, samples))


@pytest.mark.parametrize("length", BORDERS)
@pytest.mark.parametrize("size", [1, 160])
def test_borders_between_frames_are_exact(length: int, size: int) -> None:
    samples = noise(length)
    mel = streamed(PREPROCESSOR.stream(), samples.split(size) if length else [])
    assert_near(mel, whole(PREPROCESSOR, samples))


def test_frames_come_as_soon_as_their_window_is_full() -> None:
    stream = PREPROCESSOR.stream()
    assert [stream.push(noise(size)).shape[1] for size in (199, 1, 159, 1, 640)] == [0, 1, 0, 1, 4]
    assert stream.finish().shape == (80, 0)


def test_a_finished_stream_takes_nothing_more() -> None:
    stream = PREPROCESSOR.stream()
    stream.push(noise(500))
    assert stream.finish().shape == (80, 1)
    with pytest.raises(StreamStateError):
        stream.finish()
    with pytest.raises(StreamStateError):
        stream.push(noise(1))


def test_a_clone_continues_on_its_own() -> None:
    samples = noise(3_000)
    stream = PREPROCESSOR.stream()
    head = stream.push(samples[:1_111])
    clone = stream.clone()
    streamed(stream, [noise(1_000, seed=1)])
    tail = streamed(clone, [samples[1_111:]])
    assert_near(torch.cat((head, tail), dim=1), whole(PREPROCESSOR, samples))


def test_a_stream_keeps_no_view_of_the_callers_packet() -> None:
    stream, samples = PREPROCESSOR.stream(), noise(1_000)
    packets = [samples[:150].clone(), samples[150:].clone()]
    head = stream.push(packets[0])
    packets[0].fill_(9.0)
    assert_near(
        torch.cat((head, streamed(stream, packets[1:])), dim=1), whole(PREPROCESSOR, samples)
    )


def test_features_over_the_whole_file_cannot_stream() -> None:
    with pytest.raises(UnsupportedError, match="per_feature"):
        AudioPreprocessor(replace(CONFIG, normalize="per_feature")).stream()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_keeps_float32_features(dtype: torch.dtype) -> None:
    preprocessor = AudioPreprocessor(CONFIG).to(dtype)
    assert torch.equal(whole(preprocessor, noise(3_000)), whole(PREPROCESSOR, noise(3_000)))


def test_tables_stored_in_half_precision_are_used_in_float32() -> None:
    preprocessor = AudioPreprocessor(CONFIG)
    stored = {key: table.bfloat16() for key, table in preprocessor.state_dict().items()}
    preprocessor.load_state_dict(stored, assign=True)
    mel = whole(preprocessor, noise(3_000))
    assert mel.dtype == torch.float32
    preprocessor.load_state_dict({key: table.float() for key, table in stored.items()}, assign=True)
    assert torch.equal(mel, whole(preprocessor, noise(3_000)))


def test_a_meta_device_block_still_gives_real_tables() -> None:
    with torch.device("meta"):
        preprocessor = AudioPreprocessor(CONFIG)
    assert torch.equal(whole(preprocessor, noise(500)), whole(PREPROCESSOR, noise(500)))


@pytest.mark.parametrize(
    ("samples", "lengths"),
    [
        (torch.zeros(2, 400, dtype=torch.float64), torch.tensor([400, 400])),
        (torch.zeros(2, 400, dtype=torch.int16), torch.tensor([400, 400])),
        (torch.zeros(400), torch.tensor([400])),
        (torch.zeros(2, 400), torch.tensor([400])),
        (torch.zeros(2, 400), torch.tensor([400, 400], dtype=torch.int32)),
        (torch.zeros(2, 400), torch.tensor([400, 401])),
        (torch.zeros(2, 400), torch.tensor([-1, 400])),
    ],
)
def test_recordings_of_another_shape_are_refused(samples: Tensor, lengths: Tensor) -> None:
    with pytest.raises(ShapeError):
        PREPROCESSOR(samples, lengths)


@pytest.mark.parametrize("size", [0, 241, 400, 402, 560, 562])
def test_spans_of_no_whole_frames_are_refused(size: int) -> None:
    position = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ShapeError):
        PREPROCESSOR.frames(torch.zeros(1, size), position, position)


@pytest.mark.parametrize("packet", [torch.zeros(1, 160), torch.zeros(160, dtype=torch.int16)])
def test_packets_of_another_shape_are_refused_and_change_nothing(packet: Tensor) -> None:
    stream = PREPROCESSOR.stream()
    with pytest.raises(ShapeError):
        stream.push(packet)
    assert_near(streamed(stream, [noise(900)]), whole(PREPROCESSOR, noise(900)))


@pytest.mark.parametrize(("window", "hop"), [(600, 160), (400, 0), (400, 401)])
def test_an_impossible_geometry_is_refused(window: int, hop: int) -> None:
    with pytest.raises(CheckpointError):
        AudioPreprocessor(replace(CONFIG, window_samples=window, hop_samples=hop))
