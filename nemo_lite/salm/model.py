"""The public face of Canary-Qwen: load it, transcribe recordings, take requests one by one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nemo_lite.audio_files import Audio, load_audio
from nemo_lite.errors import RecognitionError, ShapeError
from nemo_lite.hub import resolve
from nemo_lite.number_formats import DtypeName, check_format, torch_dtype
from nemo_lite.results import Transcript
from nemo_lite.salm.checkpoint import load_network, read_salm
from nemo_lite.salm.config import SalmConfig
from nemo_lite.salm.generation import GenerationBatch
from nemo_lite.salm.int8 import quantise
from nemo_lite.salm.limits import LONGEST_SECONDS, POSITIONS
from nemo_lite.salm.memory import default_slots
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.requests import RequestBatch, Window
from nemo_lite.salm.tokenizer import SalmTokenizer


class CanaryQwen:
    """A loaded Canary-Qwen: accurate, English, for whole stretches of speech; it cannot stream.

    Weights are shared and never change. One thread at a time uses a model and its batches.
    """

    def __init__(self, config: SalmConfig, network: SalmNetwork, tokenizer: SalmTokenizer) -> None:
        """Use `load`."""
        self._network = network
        self._batch: RequestBatch | None = None
        self.config = config
        """What the checkpoint says about itself."""
        self.tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | DtypeName | None = None,
        threads: int | None = None,
        base_model: str | Path | None = None,
    ) -> "CanaryQwen":
        """Load a checkpoint of NeMo's `SALM`.

        `nemo_lite.salm.memory.required_bytes` says beforehand what it takes.

        Args:
            source: `canary-qwen`, a hub id, or the folder that holds `config.json` and the
                safetensors. What is not on this machine is downloaded and verified.
            device: a torch device.
            dtype: what the network computes in; None = float32. "int8" is for the CPU: 8-bit
                weights of all linear layers; it needs the package `nemo-lite-cpu`.
            threads: for int8; None = as many as torch uses.
            base_model: folder or hub id of the language model's configuration and tokenizer; None
                = in the checkpoint's folder, else what it names.

        Raises:
            CheckpointError: the checkpoint is damaged or of another kind.
            DownloadError: it, or its base model, is not here and cannot be fetched.
            UnknownModelError: nothing has that name.
            UnsupportedError: the dtype or device does not exist here.
        """
        device = torch.device(device)
        check_format(device, dtype)
        checkpoint = read_salm(resolve(source), base_model=base_model)
        if dtype != "int8":
            network = load_network(checkpoint, device=device, dtype=torch_dtype(dtype))
        else:
            # The published weights are bfloat16: in float32 they would take twice the memory.
            network = load_network(checkpoint, device=device, dtype=torch.bfloat16)
            quantise(network, threads=threads or torch.get_num_threads())
        return cls(checkpoint.config, network, checkpoint.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._network.device

    @property
    def max_samples(self) -> int:
        """The longest audio that is recognised as a whole: 40 s, as in training."""
        return LONGEST_SECONDS * self.config.preprocessor.sample_rate

    def requests(self, slots: int | None = None) -> RequestBatch:
        """Allocate a batch that takes requests at any time.

        Args:
            slots: pieces of audio at once, more wait; None = as many as are of use and have room
                in half of the free memory, at most 8 on a CPU and 32 on a GPU.

        Raises:
            ShapeError: `slots` is not at least 1.
        """
        network, preprocessor = self._network, self.config.preprocessor
        if slots is None:
            slots = default_slots(network.llm.config, network.dtype, self.device)
        if slots < 1:
            raise ShapeError(f"slots is {slots}, not at least 1")
        generation = GenerationBatch(
            network, slots=slots, length=POSITIONS, end_tokens=self.tokenizer.end_tokens
        )
        window = Window(
            sample_rate=preprocessor.sample_rate,
            frame_samples=preprocessor.hop_samples * self.config.encoder.subsampling_factor,
            samples=self.max_samples,
            positions=POSITIONS,
        )
        return RequestBatch(generation, self.tokenizer, window, slots=slots)

    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        *,
        sample_rate: int = 16_000,
        prompt: str | None = None,
    ) -> list[Transcript]:
        """Transcribe whole recordings, together and greedily.

        Recordings of more than `max_samples` are cut where they are quiet; the network's memory
        does not grow with their length or number.

        Args:
            audio: one recording or a list of them: (S,) float in -1..1 or int16, or the path of
                an audio file (mixed down to mono).
            sample_rate: of the arrays, in Hz; files know their own.
            prompt: what to ask, for all of them; None asks for a transcript, as in training.

        Returns:
            One transcript per recording, in order; empty where there is no speech. Times of words
            are estimates. Recordings do not change each other's tokens.

        Raises:
            ShapeError: an array is not one-dimensional, not of a supported dtype, or not finite.
            ValueError: no sample rate, or the prompt leaves no room for audio and answer.
            RecognitionError: the network gave no usable result for one of them.
            OSError: a file cannot be read.
        """
        if isinstance(audio, (str, Path, np.ndarray, Tensor)):
            audio = [audio]
        rate = self.config.preprocessor.sample_rate
        waveforms = [load_audio(item, sample_rate, rate) for item in audio]
        if not waveforms:
            return []
        # Pieces have at least three quarters of the length.
        pieces = sum(1 + len(waveform) * 4 // (3 * self.max_samples) for waveform in waveforms)
        # Kept for the next call, unless this one fails.
        batch, self._batch = self._batch, None
        if batch is None or batch.slots < pieces:
            batch = self._grown(batch, pieces)
        numbers = [batch.add(waveform, prompt=prompt) for waveform in waveforms]
        found: dict[int, Transcript] = {}
        while len(found) < len(numbers):
            for number, result in batch.step():
                if isinstance(result, RecognitionError):
                    raise result
                found[number] = result
        self._batch = batch
        return [found[number] for number in numbers]

    def _grown(self, batch: RequestBatch | None, pieces: int) -> RequestBatch:
        """A batch with a slot per piece, or with as many as there should be at most."""
        network = self._network
        slots = min(pieces, default_slots(network.llm.config, network.dtype, self.device))
        return batch if batch is not None and batch.slots >= slots else self.requests(slots)
