"""Requests of any length in one batch: cut, recognised together, joined to transcripts."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.audio_files import as_samples
from nemo_lite.errors import RecognitionError
from nemo_lite.results import Transcript
from nemo_lite.salm.activity import has_speech
from nemo_lite.salm.limits import max_new_tokens, without_loop
from nemo_lite.salm.long_audio import pieces
from nemo_lite.salm.transcripts import Spelling, join, transcript

if TYPE_CHECKING:
    from nemo_lite.salm.generation import Generated
    from nemo_lite.salm.tokenizer import PromptIds


_NOT_FINITE = (
    "the network's result for this audio is not finite: its weights are damaged, or its numbers "
    "beyond what this dtype can hold"
)


class Generation(Protocol):
    """What writes the tokens: `GenerationBatch`."""

    @property
    def active(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    def prepare(self) -> None: ...
    def add(
        self, samples: NDArray[np.float32], prompt: "PromptIds", *, max_new_tokens: int
    ) -> int: ...
    def step(self) -> "list[tuple[int, Generated]]": ...
    def cancel(self, request: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Window:
    """What one recognition may hold."""

    sample_rate: int
    frame_samples: int
    """Audio per position of the language model."""
    samples: int
    """Longer audio is cut."""
    positions: int
    """Prompt, audio and answer."""


@dataclass(slots=True)
class _Request:
    prompt: "PromptIds"
    pieces: Iterator[NDArray[np.float32]]
    samples: int
    fed: int = 0
    """Samples in the pieces that were handed on."""
    running: set[int] = field(default_factory=set)
    """What the generation calls the pieces it has."""
    parts: dict[int, Transcript] = field(default_factory=dict)
    """By first sample."""
    error: RecognitionError | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    request: int
    start: int
    samples: NDArray[np.float32]
    limit: int


class RequestBatch:
    """Requests that share every pass over the weights; made by `CanaryQwen.requests`.

    Requests may join and leave between any two steps; what else is in the batch does not change a
    transcript. Audio longer than the model was trained for is cut where it is quiet, its pieces
    are recognised like requests of their own, taking turns with others, and joined. Pieces without
    speech are not shown to the model, which would invent some.

    One thread at a time uses a model and its batches. After an exception from `step` the batch is
    of no more use.
    """

    def __init__(
        self, generation: Generation, tokenizer: Spelling, window: Window, *, slots: int
    ) -> None:
        """Use `CanaryQwen.requests`."""
        self.slots = slots
        """Pieces that are recognised at once; others wait."""
        self._generation = generation
        self._tokenizer = tokenizer
        self._window = window
        self._requests: dict[int, _Request] = {}
        self._unfed: deque[int] = deque()
        self._done: list[int] = []
        self._pieces: dict[int, _Piece] = {}
        self._made = 0

    @property
    def active(self) -> int:
        """Requests of which the model has something."""
        return sum(bool(request.running) for request in self._requests.values())

    @property
    def waiting(self) -> int:
        """Requests that are not active and whose transcripts were not given yet."""
        return len(self._requests) - self.active

    def prepare(self) -> None:
        """Do ahead what the first steps would have to wait for; on CUDA that takes seconds."""
        self._generation.prepare()

    def add(self, samples: NDArray[np.float32] | Tensor, *, prompt: str | None = None) -> int:
        """Take a request; its transcript comes from a later `step`.

        Args:
            samples: (S,) float32 of -1..1 at the model's rate, any number; not copied, so leave
                them as they are until the transcript is there.
            prompt: what to ask instead of "Transcribe the following:"; the audio's tag is added
                where it has none.

        Returns:
            The request's number in this batch.

        Raises:
            ShapeError: the samples are not float32 (S,), or are no audio.
            ValueError: the prompt leaves no room for audio and answer.
        """
        array = as_samples(samples)
        ids, window = self._tokenizer.prompt(prompt), self._window
        longest = min(len(array), window.samples)
        if self._room(ids, longest) < max_new_tokens(longest, window.sample_rate):
            count = len(ids.before) + len(ids.after)
            raise ValueError(f"a prompt of {count} tokens leaves no room for audio and answer")
        self._made += 1
        parts = pieces(array, window.sample_rate, longest=window.samples)
        self._requests[self._made] = _Request(ids, parts, len(array))
        self._unfed.append(self._made)
        return self._made

    def step(self) -> list[tuple[int, Transcript | RecognitionError]]:
        """Let every active request write a token, and waiting ones join.

        Returns:
            Requests that are done, each given once, and their transcripts, or what kept one from
            getting its own.
        """
        self._feed()
        for piece, generated in self._generation.step():
            self._keep(piece, generated)
        done = [(number, self._requests.pop(number)) for number in self._done]
        self._done.clear()
        return [(number, request.error or join(request.parts)) for number, request in done]

    def cancel(self, request: int) -> None:
        """Drop a request and free its place at once; one that is not here is no error."""
        if request in self._requests:
            self._withdraw(request)
            del self._requests[request]

    def _withdraw(self, number: int) -> None:
        """Let nothing more be done for a request."""
        for numbers in (self._unfed, self._done):
            if number in numbers:
                numbers.remove(number)
        running = self._requests[number].running
        for piece in running:
            self._generation.cancel(piece)
            del self._pieces[piece]
        running.clear()

    def _feed(self) -> None:
        """Hand on pieces, one of each request in turn, no more than the next steps will take.

        Those without speech take no place, but looking at them takes time, too.
        """
        generation, silent = self._generation, 0
        for _ in range(self.slots):
            if not self._unfed or generation.active + generation.waiting >= 2 * self.slots:
                return
            if silent >= self._window.samples:
                return
            number = self._unfed.popleft()
            request = self._requests[number]
            start, samples = request.fed, next(request.pieces)
            request.fed += len(samples)
            if has_speech(samples, self._window.sample_rate):
                limit = max_new_tokens(len(samples), self._window.sample_rate)
                piece = generation.add(samples, request.prompt, max_new_tokens=limit)
                self._pieces[piece] = _Piece(number, start, samples, limit)
                request.running.add(piece)
            else:
                silent += len(samples)
            if request.fed < request.samples:
                self._unfed.append(number)
            else:
                self._note_if_done(number)

    def _note_if_done(self, number: int) -> None:
        request = self._requests[number]
        if request.fed == request.samples and not request.running:
            self._done.append(number)

    def _room(self, prompt: "PromptIds", samples: int) -> int:
        """Positions that are left for the answer."""
        frames = samples // self._window.frame_samples + 1
        return self._window.positions - frames - len(prompt.before) - len(prompt.after)

    def _keep(self, number: int, generated: "Generated") -> None:
        piece = self._pieces.pop(number, None)
        if piece is None:  # of a request that failed in this step
            return
        request = self._requests[piece.request]
        request.running.remove(number)
        if generated.failed:
            request.error = RecognitionError(_NOT_FINITE)
            self._withdraw(piece.request)
            self._done.append(piece.request)
            return
        kept = len(generated.tokens)
        if kept >= piece.limit:
            kept = without_loop(generated.tokens)
        request.parts[piece.start] = transcript(
            self._tokenizer,
            generated.tokens[:kept],
            generated.probabilities[:kept],
            piece.samples,
            first_sample=piece.start,
            sample_rate=self._window.sample_rate,
        )
        self._note_if_done(piece.request)
