"""Silero VAD, the network: in numpy where that gives the very same, else in onnxruntime.

numpy needs a third of the time: it hears all windows of a tick in one product per layer, and only
the recurrent layer runs window by window.
"""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from stt_server.engine.base import EngineUnavailable
from stt_server.engine.onnx_file import OnnxFileError, read_float_weights
from stt_server.engine.vad import CONTEXT_SAMPLES, HIDDEN, Array, VadModel, VadState, VadWindows
from stt_server.events import SAMPLE_RATE, WINDOW_SAMPLES

logger = logging.getLogger(__name__)

MIN_ROWS = 4
"""Of every product. BLAS sums fewer rows in another order, and a stream's bits would depend on its
company; that more rows change nothing is checked at start."""
CHECKED_COMPANY = (1, 2, 3, 4, 5, 7, 8, 11, 16, 21, 40, 64, 100)
HOP, STFT_SAMPLES, BINS, STEPS = 128, 256, 129, 4
TOLERANCE = 1e-4


def load_silero() -> VadModel:
    """The network in its fastest form that agrees with onnxruntime on this machine.

    Raises:
        EngineUnavailable: the `silero-vad` package is missing.
    """
    folder = _data_folder()
    reference = OnnxSilero(folder / "silero_vad.onnx")
    try:
        fast = NumpySilero(read_float_weights(folder / "silero_vad_16k_op15.onnx"))
        disagreement = _disagreement(fast, reference)
    except (OSError, KeyError, ValueError, OnnxFileError) as error:
        disagreement = str(error)
    else:
        if disagreement is None:
            return fast
    logger.warning("vad.slow", extra={"why": disagreement, "uses": "onnxruntime"})
    return reference


def _data_folder() -> Path:
    # Importing `silero_vad` imports torch, which this server does not need: only find it.
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        raise EngineUnavailable("package `silero-vad` is missing; pip install silero-vad")
    return Path(spec.submodule_search_locations[0]) / "data"


def _disagreement(fast: "NumpySilero", reference: "OnnxSilero") -> str | None:
    """What keeps `fast` from standing in for `reference`; None if nothing does."""
    rng = np.random.default_rng(0)
    levels = np.geomspace(1e-3, 1.0, 24)[:, None]
    windows = (rng.standard_normal((24, WINDOW_SAMPLES)) * levels).astype(np.float32)
    expected = reference.run([VadState()], [windows])[0]
    got = fast.run([VadState()], [windows])[0]
    error = float(np.abs(np.array(got) - np.array(expected)).max())
    if not error < TOLERANCE:
        return f"numpy differs by {error:.1e} from onnxruntime"
    for count in CHECKED_COMPANY:
        company = fast.run([VadState() for _ in range(count)], [windows[:3]] * count)
        if any(row != got[:3] for row in company):
            return f"numpy's result depends on the batch ({count} streams)"
    return None


class OnnxSilero:
    """The package's own graph under onnxruntime, one window of each stream per call."""

    def __init__(self, path: Path) -> None:
        options = cast("Any", ort).SessionOptions()
        # One thread: the batch is small, and the other cores belong to recognition.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The package has no type stubs.
        self._session: Any = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE, dtype=np.int64)

    def run(self, states: Sequence[VadState], windows: Sequence[VadWindows]) -> list[list[float]]:
        out: list[list[float]] = [[] for _ in states]
        for step in range(max((len(rows) for rows in windows), default=0)):
            active = [index for index, rows in enumerate(windows) if len(rows) > step]
            probabilities = self._step(
                [states[index] for index in active], [windows[index][step] for index in active]
            )
            for index, probability in zip(active, probabilities, strict=True):
                out[index].append(probability)
        return out

    def _step(self, states: Sequence[VadState], windows: Sequence[Array]) -> list[float]:
        batch = np.empty((len(states), CONTEXT_SAMPLES + WINDOW_SAMPLES), dtype=np.float32)
        np.stack([state.context for state in states], out=batch[:, :CONTEXT_SAMPLES])
        np.stack(windows, out=batch[:, CONTEXT_SAMPLES:])
        recurrent = np.stack([state.recurrent for state in states], axis=1)
        probabilities, advanced = self._session.run(
            None, {"input": batch, "state": recurrent, "sr": self._rate}
        )
        for row, (state, window) in enumerate(zip(states, windows, strict=True)):
            state.context = window[-CONTEXT_SAMPLES:].copy()
            state.recurrent = advanced[:, row].copy()
        return probabilities[:, 0].tolist()


class NumpySilero:
    """The same network in numpy.

    Per window: |STFT| of 4 frames of 129 bins, four convolutions over time (129 → 128 → 64 → 64 →
    128 channels, the second and third halving the frames) with ReLU, an LSTM cell, one output.
    """

    def __init__(self, weights: dict[str, NDArray[np.float32]]) -> None:
        """Raises `KeyError` or `ValueError` for weights of another network."""
        # Products this small gain nothing from BLAS' threads, and lose while these spin.
        cast("Any", ThreadpoolController()).limit(limits=1, user_api="blas")
        self._stft = _matrix(weights["model.stft.forward_basis_buffer"])
        self._layers = [
            (_matrix(weights[f"{name}.weight"]), weights[f"{name}.bias"])
            for name in (f"model.encoder.{layer}.reparam_conv" for layer in range(4))
        ]
        # One frame is left before the last convolution: only its middle tap meets data.
        last = weights["model.encoder.3.reparam_conv.weight"]
        self._layers[3] = (_matrix(last[:, :, 1:2]), self._layers[3][1])
        rnn = "model.decoder.rnn"
        both = (weights[f"{rnn}.weight_ih"], weights[f"{rnn}.weight_hh"])
        self._lstm = np.ascontiguousarray(np.concatenate(both, axis=1).T)
        self._lstm_bias = weights[f"{rnn}.bias_ih"] + weights[f"{rnn}.bias_hh"]
        self._out = _matrix(weights["model.decoder.decoder.2.weight"])
        self._out_bias = weights["model.decoder.decoder.2.bias"]

    def run(self, states: Sequence[VadState], windows: Sequence[VadWindows]) -> list[list[float]]:
        counts = [len(rows) for rows in windows]
        starts = np.cumsum([0, *counts])
        inputs = _rows(int(starts[-1]), CONTEXT_SAMPLES + WINDOW_SAMPLES)
        for state, rows, start in zip(states, windows, starts, strict=False):
            end = start + len(rows)
            inputs[start:end, CONTEXT_SAMPLES:] = rows
            inputs[start, :CONTEXT_SAMPLES] = state.context
            inputs[start + 1 : end, :CONTEXT_SAMPLES] = rows[:-1, -CONTEXT_SAMPLES:]
            state.context = rows[-1, -CONTEXT_SAMPLES:].copy()
        encoded = self._encode(inputs)
        out: list[list[float]] = [[] for _ in states]
        for step in range(max(counts, default=0)):
            active = [index for index, count in enumerate(counts) if count > step]
            frames = encoded[starts[active] + step]
            probabilities = self._recur([states[index] for index in active], frames)
            for index, probability in zip(active, probabilities, strict=True):
                out[index].append(probability)
        return out

    def _encode(self, inputs: Array) -> Array:
        """(B, 576) windows with their context to (B, 128) features."""
        # Reflected at the end as the network was trained: 576 → 640 samples, 4 frames.
        mirrored = inputs[:, -2 : -CONTEXT_SAMPLES - 2 : -1]
        samples = np.concatenate((inputs, mirrored), axis=1)
        frames = np.lib.stride_tricks.sliding_window_view(samples, STFT_SAMPLES, axis=1)[:, ::HOP]
        spectrum: Array = frames.reshape(-1, STFT_SAMPLES) @ self._stft
        power = np.square(spectrum[:, :BINS]) + np.square(spectrum[:, BINS:])
        hidden = np.sqrt(power).reshape(-1, STEPS, BINS)
        for layer, stride in ((0, 1), (1, 2), (2, 2)):
            hidden = _convolve(hidden, *self._layers[layer], stride=stride)
        matrix, bias = self._layers[3]
        return np.maximum(hidden[:, 0] @ matrix + bias, 0.0)

    def _recur(self, states: Sequence[VadState], frames: Array) -> list[float]:
        """One step of the LSTM for (B, 128) features; advances the states."""
        count = len(states)
        inputs, cell = _rows(count, 2 * HIDDEN), _rows(count, HIDDEN)
        inputs[:count, :HIDDEN] = frames
        np.stack([state.recurrent[0] for state in states], out=inputs[:count, HIDDEN:])
        np.stack([state.recurrent[1] for state in states], out=cell[:count])
        gates = inputs @ self._lstm
        gates += self._lstm_bias
        take, forget, fresh, give = np.split(gates, 4, axis=1)
        cell = _sigmoid(forget) * cell + _sigmoid(take) * np.tanh(fresh)
        hidden = _sigmoid(give) * np.tanh(cell)
        # One column: a sum per row, which no product may regroup.
        score = (np.maximum(hidden, 0.0) * self._out[:, 0]).sum(axis=1)
        advanced = np.stack((hidden, cell), axis=1)
        for row, state in enumerate(states):
            state.recurrent = advanced[row].copy()
        return _sigmoid(score + self._out_bias)[:count].tolist()


def _convolve(inputs: Array, matrix: Array, bias: Array, *, stride: int) -> Array:
    """(B, T, C) with a kernel of 3 over time, one frame of zeros on either side, then ReLU."""
    rows, frames, channels = inputs.shape
    padded = np.zeros((rows, frames + 2, channels), dtype=np.float32)
    padded[:, 1:-1] = inputs
    steps = frames // stride
    taps = [padded[:, tap : tap + stride * steps : stride] for tap in range(3)]
    patches = np.concatenate(taps, axis=2).reshape(rows * steps, 3 * channels)
    out = patches @ matrix
    out += bias
    return np.maximum(out, 0.0, out=out).reshape(rows, steps, -1)


def _matrix(weight: Array) -> Array:
    """A convolution's (out, in, taps) weight as a (taps × in, out) matrix."""
    return np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(-1, weight.shape[0]))


def _sigmoid(values: Array) -> Array:
    return np.reciprocal(1.0 + np.exp(-values))


def _rows(count: int, width: int) -> Array:
    """Zeros for `count` rows or the few more that every product needs."""
    return np.zeros((max(count, MIN_ROWS), width), dtype=np.float32)
