"""The public face: `load` a checkpoint, `transcribe` recordings, open live `streams`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.audio_files import Audio, load_audio
from nemo_lite.checkpoints import Checkpoint, load_strictly, read_checkpoint
from nemo_lite.chunk_encoder import TorchChunkEncoder
from nemo_lite.config import ModelConfig
from nemo_lite.cuda_graphs import exact_convolutions
from nemo_lite.decoding import CtcDecoder, GreedyDecoder, RnntDecoder
from nemo_lite.errors import ShapeError, UnknownModelError, UnsupportedError
from nemo_lite.graphed_step import GraphedStep
from nemo_lite.hub import resolve
from nemo_lite.int8_encoder import Int8Encoder
from nemo_lite.network import Network
from nemo_lite.number_formats import DtypeName, check_format, torch_dtype
from nemo_lite.registry import find
from nemo_lite.results import Transcript
from nemo_lite.step import EagerStep, StepRunner
from nemo_lite.streaming import StreamBatch
from nemo_lite.tokenizer import Tokenizer
from nemo_lite.transcripts import TokenRun, token_runs, transcript

DecoderName = Literal["rnnt", "ctc"]

_KINDS = ("cpu", "cuda", "mps")
"""Of devices."""
_CATCH_UP_FRAMES = 256
"""Encoder frames per step when a whole recording is at hand: 20 s bound the memory of attention."""
_CATCH_UP_SLOTS = 8
_BATCH_SAMPLES = 16_000 * 240
"""Samples, padding included, that full-attention models encode at once."""


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | DtypeName | None = None,
    threads: int | None = None,
) -> "Model":
    """Load a recogniser.

    Args:
        source: a name of the registry (`nemotron-en`), a hub id (`nvidia/...`), a folder, or a
            `.nemo` file. What is not on this machine is downloaded and verified.
        device: a torch device.
        dtype: what the network computes in; None = float32. "int8" is for live streams on the
            CPU: 8-bit weights of the encoder's linear layers; it needs the package
            `nemo-lite-cpu`.
        threads: for int8; None = as many as torch uses. While an int8 step runs, torch itself is
            set to one thread, which a thread of yours that first uses torch at that moment keeps.

    Raises:
        CheckpointError: the checkpoint is damaged or of a family this library does not know.
        DownloadError: it is not here and cannot be fetched.
        UnknownModelError: nothing has that name.
        UnsupportedError: the dtype or device does not exist here, or not for this model; or it is
            Canary-Qwen, which `CanaryQwen.load` loads.
    """
    check_format(torch.device(device), dtype, kinds=_KINDS)
    _refuse_others(source)
    checkpoint = read_checkpoint(resolve(source))
    return Model.from_checkpoint(checkpoint, device=device, dtype=dtype, threads=threads)


class Model:
    """A loaded recogniser. Weights are shared and never change; use from one thread at a time."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer, *, int8: Int8Encoder | None = None
    ) -> None:
        """Use `load` or `from_checkpoint`."""
        self._network = network
        self._int8 = int8
        self.tokenizer = tokenizer

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | DtypeName | None = None,
        threads: int | None = None,
    ) -> "Model":
        """Build the network of a checkpoint that was read with `read_checkpoint`.

        Empties `checkpoint.state`: its tensors are mapped from a file, on which the model does not
        stay dependent, and each goes once it was copied, converted or packed.
        """
        device = torch.device(device)
        check_format(device, dtype, kinds=_KINDS)
        with torch.device("meta"):
            network = Network(checkpoint.config).eval()
        source = str(checkpoint.source)
        load_strictly(network, checkpoint.state, source=source, optional=("preprocessor.",))
        checkpoint.state.clear()
        network.requires_grad_(False)
        if dtype != "int8":
            network.copy_to(device, torch_dtype(dtype))
            return cls(network, checkpoint.tokenizer)
        int8 = Int8Encoder(network.encoder, threads=threads or torch.get_num_threads())
        network.copy_to(device, torch.float32)
        return cls(network, checkpoint.tokenizer, int8=int8)

    @property
    def config(self) -> ModelConfig:
        """What the checkpoint says about itself."""
        return self._network.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._network.device

    @property
    def lookaheads(self) -> tuple[int, ...]:
        """Look-aheads in encoder frames, the default first; empty for models that cannot stream."""
        if not self.config.encoder.streaming:
            return ()
        return tuple(context.right for context in self.config.encoder.contexts)

    def streams(self, slots: int, *, decoder: DecoderName | None = None) -> StreamBatch:
        """Allocate `slots` live streams that share every step.

        Args:
            slots: streams at once, ≥ 1.
            decoder: for models with both heads; None = RNN-T where there is one.

        Raises:
            UnsupportedError: the model was not trained for streaming, or lacks that decoder.
        """
        return self._streams(slots, decoder, frames_per_step=1)

    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        *,
        sample_rate: int = 16_000,
        language: str | None = None,
        lookahead: int | None = None,
        decoder: DecoderName | None = None,
    ) -> list[Transcript]:
        """Transcribe whole recordings.

        Args:
            audio: one recording or a list of them: (S,) float in -1..1 or int16, or the path of
                an audio file (mixed down to mono).
            sample_rate: of the arrays, in Hz; files know their own.
            language: for models with language prompts; None = detect.
            lookahead: for cache-aware models, encoder frames; None = the checkpoint's default.
            decoder: for models with both heads; None = RNN-T where there is one.

        Returns:
            One transcript per recording, in order. Live streams with the same look-ahead give
            the same tokens.

        Raises:
            ShapeError: an array is not one-dimensional, not of a supported dtype, or not finite.
            ValueError: unknown language or look-ahead, or no sample rate.
            UnsupportedError: the model lacks that decoder.
            OSError: a file cannot be read.
        """
        if isinstance(audio, (str, Path, np.ndarray, Tensor)):
            audio = [audio]
        rate = self.config.preprocessor.sample_rate
        waveforms = [load_audio(item, sample_rate, rate) for item in audio]
        if self.config.encoder.streaming and self.config.preprocessor.normalize is None:
            return self._transcribe_chunked(waveforms, language, lookahead, decoder)
        return self._transcribe_whole(waveforms, language, lookahead, decoder)

    def _streams(
        self, slots: int, decoder: DecoderName | None, *, frames_per_step: int
    ) -> StreamBatch:
        if slots < 1:
            raise ShapeError(f"slots is {slots}, not at least 1")
        return StreamBatch(
            self._network,
            self.tokenizer,
            self._step_runner(slots, self._decoder(decoder), frames_per_step),
            slots=slots,
            frames_per_step=frames_per_step,
        )

    def _step_runner(self, slots: int, decoder: GreedyDecoder, frames_per_step: int) -> StepRunner:
        network = self._network
        if self._int8 is not None:
            # What is left for torch is small: on a busy machine its threads would wait for each
            # other longer than they compute.
            encoder = self._int8.chunk_encoder(slots)
            return EagerStep(network, encoder, decoder, slots, torch_threads=1)
        if self.device.type == "cuda" and frames_per_step == 1:
            return GraphedStep(network, decoder, slots)
        encoder = TorchChunkEncoder(network.encoder, slots, frames_per_step=frames_per_step)
        return EagerStep(network, encoder, decoder, slots)

    def _decoder(self, name: DecoderName | None) -> GreedyDecoder:
        network, config = self._network, self.config
        if name not in (None, "rnnt", "ctc"):
            raise UnsupportedError(f"decoder {name!r} is neither rnnt nor ctc")
        if name == "ctc" or (name is None and config.joint is None):
            if network.ctc_head is None:
                raise UnsupportedError("this model has no CTC decoder")
            return CtcDecoder(network.ctc_head)
        if config.joint is None:
            raise UnsupportedError("this model has no RNN-T decoder")
        return RnntDecoder(network.decoder, network.joint, max_symbols=config.max_symbols)

    def _transcribe_chunked(
        self,
        waveforms: list[NDArray[np.float32]],
        language: str | None,
        lookahead: int | None,
        decoder: DecoderName | None,
    ) -> list[Transcript]:
        """Recordings as streams that arrive at once: memory does not grow with their length."""
        found: dict[int, Transcript] = {}
        slots = max(1, min(len(waveforms), _CATCH_UP_SLOTS))
        # The int8 kernels take one chunk at a time.
        frames = 1 if self._int8 is not None else _CATCH_UP_FRAMES
        batch = self._streams(slots, decoder, frames_per_step=frames)
        waiting = sorted(range(len(waveforms)), key=lambda index: len(waveforms[index]))
        active: dict[int, int] = {}
        while waiting or active:
            while waiting and batch.free_slots:
                slot = batch.open(lookahead=lookahead, language=language)
                active[slot] = waiting.pop()
                batch.push(slot, waveforms[active[slot]])
                batch.finish(slot)
            for update in batch.step():
                if update.is_final:
                    found[active.pop(update.slot)] = batch.transcript(update.slot)
                    batch.close(update.slot)
        return [found[index] for index in range(len(waveforms))]

    @torch.inference_mode()
    def _transcribe_whole(
        self,
        waveforms: list[NDArray[np.float32]],
        language: str | None,
        lookahead: int | None,
        decoder: DecoderName | None,
    ) -> list[Transcript]:
        """Full attention needs each recording in one piece."""
        greedy = self._decoder(decoder)
        prompt = self._network.prompt_index(language)
        found: dict[int, Transcript] = {}
        order = sorted(range(len(waveforms)), key=lambda index: -len(waveforms[index]))
        while order:
            size = max(1, _BATCH_SAMPLES // max(1, len(waveforms[order[0]])))
            indices, order = order[:size], order[size:]
            batch = [waveforms[index] for index in indices]
            runs = self._recognise(batch, greedy, prompt, lookahead)
            for index, run in zip(indices, runs, strict=True):
                found[index] = transcript(run, self.tokenizer, self.config.frame_seconds)
        return [found[index] for index in range(len(waveforms))]

    @exact_convolutions()
    def _recognise(
        self,
        waveforms: list[NDArray[np.float32]],
        greedy: GreedyDecoder,
        prompt: int,
        lookahead: int | None,
    ) -> list[TokenRun]:
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        samples = torch.zeros(len(waveforms), max(1, int(lengths.max())))
        for row, waveform in zip(samples, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        network, device = self._network, self.device
        mel, mel_lengths = network.preprocessor(samples.to(device), lengths.to(device))
        encoded, frames = network.encoder(mel.to(network.dtype), mel_lengths, lookahead=lookahead)
        frames = torch.where(mel_lengths > 0, frames, 0)
        encoded = network.apply_prompt(encoded, torch.full_like(frames, prompt))
        rows = torch.arange(len(waveforms), device=device)
        decoded = greedy.decode(encoded, frames, greedy.new_state(len(waveforms)), rows)
        return token_runs(decoded)


def _refuse_others(source: str | Path) -> None:
    """Before gigabytes are fetched that this class cannot use."""
    if isinstance(source, Path) or os.path.exists(source):
        return
    try:
        family = find(source).family
    except UnknownModelError:
        return
    if family == "salm":
        raise UnsupportedError(f"{source} has a class of its own: use CanaryQwen.load({source!r})")
    if family == "turns":
        raise UnsupportedError(f"{source} recognises no words: `stt-server` uses it to end turns")
