"""Greedy generation for many requests at once: they join, read, write and leave on their own."""

import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nemo_lite.cuda_graphs import exact_convolutions
from nemo_lite.errors import ShapeError
from nemo_lite.salm.encoding import Encoder, Encoding
from nemo_lite.salm.generated import Generated, Request
from nemo_lite.salm.graphed_passes import GraphedPasses
from nemo_lite.salm.kv_cache import KvCache
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.pace import Pace
from nemo_lite.salm.passes import EagerPasses, Passes, Reading, Token, Writer, wait_for
from nemo_lite.torch_threads import torch_threads

if TYPE_CHECKING:
    from nemo_lite.salm.tokenizer import PromptIds

__all__ = ["Generated", "GenerationBatch"]


class GenerationBatch:
    """Requests that share every pass over the weights. One thread at a time may use it.

    A request's tokens do not depend on the others, but for the rounding of sums: in float32, and
    with 8-bit weights, that shows only where two tokens are as good as equally likely.
    """

    def __init__(
        self,
        network: SalmNetwork,
        *,
        slots: int,
        length: int,
        end_tokens: frozenset[int],
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[], None] | None = None,
    ) -> None:
        """Allocate the memory of all slots.

        Args:
            network: with its weights, on any device.
            slots: requests that advance at once; more wait.
            length: rows per slot: prompt, frames of 80 ms and new tokens.
            end_tokens: any of these ends a request.
            clock: seconds; steps are paced by it.
            wait: returns when the device has done what it was told: before that there is nothing to
                measure. None = the device's own.
        """
        self._network = network
        self._cache = KvCache.allocate(
            network.llm.config, slots=slots, length=length, like=network.llm.norm.weight
        )
        self.passes = _passes(network, self._cache)
        """What runs the language model."""
        self._encoder = Encoder(network.perception)
        self._end_tokens = end_tokens
        self._clock = clock
        self._wait = wait or wait_for(network.device)
        self._pace = Pace()
        self._group_frames = _GROUP_FRAMES[network.device.type == "cuda"]
        self._numbers = itertools.count()
        self._requests: dict[int, Request] = {}  # in order of arrival
        self._slots: list[Request | None] = [None] * slots
        self._encoding: tuple[Encoding, list[Request]] | None = None

    def prepare(self) -> None:
        """Do ahead what the first steps would have to wait for; on CUDA that takes seconds."""
        self.passes.prepare()

    def add(self, samples: NDArray[np.float32], prompt: "PromptIds", *, max_new_tokens: int) -> int:
        """Take a request; it begins when a slot is free, first come, first served.

        Args:
            samples: (S,) float32 at the model's rate; copied.
            prompt: token ids before and after the audio.
            max_new_tokens: it ends after so many, if not before.

        Returns:
            The request's number.

        Raises:
            ShapeError: `samples` is not (S,) finite float32, `max_new_tokens` is not positive, the
                prompt is empty, or all together does not fit into a slot.
        """
        if samples.ndim != 1 or samples.dtype != np.float32 or not np.isfinite(samples).all():
            raise ShapeError(
                f"samples are {samples.dtype} {samples.shape}, not (S,) finite float32"
            )
        frames = self._network.perception.output_frames(len(samples))
        rows = len(prompt.before) + frames + len(prompt.after)
        if rows < 1 or max_new_tokens < 1 or rows + max_new_tokens > self._cache.length:
            raise ShapeError(
                f"{rows} rows of prompt and audio and {max_new_tokens} new tokens are not within "
                f"1..{self._cache.length}"
            )
        number = next(self._numbers)
        self._requests[number] = Request(number, samples.copy(), prompt, max_new_tokens)
        return number

    def cancel(self, request: int) -> None:
        """Forget a request; its slot is free at once. Finished or unknown ones are ignored."""
        if request in self._requests:
            self._release(self._requests[request], clean=False)

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return sum(request is not None for request in self._slots)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._requests) - self.active

    @torch.inference_mode()
    @exact_convolutions()
    def step(self) -> list[tuple[int, Generated]]:
        """Write one token of each request that has been read, and get on with the others.

        Without requests that write, the oldest is encoded and read at once.

        Returns:
            The requests that are finished or failed, by number. After any exception, such as one
            for lack of memory, the batch is not to be used any more.
        """
        self._admit()
        with torch_threads(self._network.torch_threads):
            return self._step()

    def _step(self) -> list[tuple[int, Generated]]:
        writers = [request for request in self._slots if request and request.writes]
        others = len(self._requests) - len(writers)
        if writers:
            promised = any(request.promised for request in writers)
            self._pace.earn(writers=len(writers), others=others, promised=promised)
        else:
            self._encode(paced=False)
        readings = self._readings(len(writers))
        tokens = self._pass(writers, readings) if writers or readings else {}
        if writers:
            self._encode(paced=True)
        return self._written(tokens)

    def _pass(self, writers: list[Request], readings: list[Reading]) -> dict[int, Token]:
        """Run the language model once and account for what it took."""
        begun = self._now()
        by_slot = {
            request.slot: Writer(request.written[-1].id, request.read) for request in writers
        }
        tokens = self.passes.run(by_slot, readings)
        for request in writers:
            request.read += 1
        read = sum(len(reading.rows) for reading in readings)
        self._pace.passed(len(writers), read, self._now() - begun)
        return tokens

    def _now(self) -> float:
        """Seconds, once all is computed that was begun."""
        self._wait()
        return self._clock()

    def _admit(self) -> None:
        """Give free slots to those that have waited longest."""
        if None not in self._slots:
            return
        idle = not any(self._slots)
        for request in self._requests.values():
            if request.slot >= 0:
                continue
            if None not in self._slots:
                return
            request.slot = self._slots.index(None)
            request.promised, idle = idle, False
            if not self._network.perception.output_frames(len(request.samples)):
                request.rows = self._prompt_rows(request, None)
            self._slots[request.slot] = request

    def _encode(self, paced: bool) -> None:
        """Encode for as long as the credit lasts, or the oldest to its end."""
        while not paced or self._pace.credit > 0.0:
            if not paced and any(request.rows is not None for request in self._held()):
                return
            if self._encoding is None and not self._begin_encoding(alone=not paced):
                return
            assert self._encoding is not None
            # Alone, it need not be measured, and the device is not kept waiting.
            begun = self._now() if paced else 0.0
            encoding, requests = self._encoding
            frames = encoding.advance()
            if frames is not None:
                self._encoding = None
                for request, encoded in zip(requests, frames, strict=True):
                    if request.slot >= 0:  # not cancelled meanwhile
                        request.rows = self._prompt_rows(request, encoded)
            if paced:
                self._pace.spend(self._now() - begun)

    def _begin_encoding(self, *, alone: bool) -> bool:
        """Choose who is encoded next: the oldest, and others of about its length."""
        group: list[Request] = []
        longest = 0
        for request in self._held():
            if request.encoded:
                continue
            frames = self._network.perception.output_frames(len(request.samples))
            widest = max(longest, frames)
            if group and (
                widest * (len(group) + 1) > self._group_frames or 3 * frames < 2 * longest
            ):
                break
            longest = widest
            group.append(request)
            if alone:
                break
        if group:
            encoding = self._encoder.start([request.samples for request in group])
            self._encoding = (encoding, group)
        return bool(group)

    def _held(self) -> list[Request]:
        """Those with a slot, in order of arrival."""
        return [request for request in self._requests.values() if request.slot >= 0]

    def _prompt_rows(self, request: Request, frames: Tensor | None) -> Tensor:
        network = self._network
        before, after = (
            network.embed(torch.tensor(ids, dtype=torch.int64, device=network.device))
            for ids in (request.prompt.before, request.prompt.after)
        )
        return torch.cat((before, after) if frames is None else (before, frames, after))

    def _readings(self, writers: int) -> list[Reading]:
        """The prompts to be read in this step, or parts of them, oldest first."""
        readings: list[Reading] = []
        waiting = [request for request in self._held() if request.rows is not None]
        left = self._pace.chunk(writers, sum(request.unread for request in waiting))
        for request in waiting:
            count = min(left, request.unread)
            if count < 1:
                break
            assert request.rows is not None
            rows = request.rows[request.read : request.read + count]
            last = count == request.unread
            readings.append(Reading(request.slot, request.read, rows, last))
            request.read += count
            request.rows = None if last else request.rows
            left -= count
        return readings

    def _written(self, tokens: dict[int, Token]) -> list[tuple[int, Generated]]:
        finished: list[tuple[int, Generated]] = []
        for slot, token in tokens.items():
            request = self._slots[slot]
            assert request is not None
            failed = not math.isfinite(token.probability)
            ended = failed or token.id in self._end_tokens
            if not ended:
                request.written.append(token)
            if ended or len(request.written) == request.max_new_tokens:
                ids = tuple(token.id for token in request.written)
                probabilities = tuple(token.probability for token in request.written)
                finished.append((request.number, Generated(ids, probabilities, failed)))
                self._release(request, clean=not failed)
        return finished

    def _release(self, request: Request, *, clean: bool) -> None:
        """Free the slot; what is no number in it would reach the next one through a zero weight."""
        del self._requests[request.number]
        if request.slot >= 0:
            self._slots[request.slot] = None
            if not clean:
                self._cache.clear(request.slot)
        request.slot = -1
        if self._encoding and all(other.slot < 0 for other in self._encoding[1]):
            self._encoding = None


def _passes(network: SalmNetwork, cache: KvCache) -> Passes:
    kind = GraphedPasses if network.device.type == "cuda" else EagerPasses
    return kind(network, cache)


_GROUP_FRAMES = {False: 64, True: 4096}
"""Frames that are encoded at once, by whether on CUDA: with fewer, reading the weights, or starting
the kernels, takes longer than computing."""
