"""Stands in for the network and its tokenizer: letters instead of a language model."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nemo_lite.salm.generation import Generated
from nemo_lite.salm.tokenizer import PromptIds

RATE = 16_000


class Letters:
    """A token is a character's code."""

    def prompt(self, text: str | None = None) -> PromptIds:
        return PromptIds(tuple(map(ord, text or "go")), (1, 2))

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def word_spans(self, tokens: Sequence[int]) -> list[tuple[str, int, int]]:
        found: list[tuple[str, int, int]] = []
        at = 0
        for word in self.decode(tokens).split(" "):
            if word:
                found.append((word, at, at + len(word)))
            at += len(word) + 1
        return found


class FakeGeneration:
    """Writes one scripted token per step and request, in `slots` places; fails at a "\0"."""

    def __init__(self, script: Callable[[NDArray[np.float32]], str], *, slots: int = 2) -> None:
        self.script = script
        self.slots = slots
        self.taken: list[tuple[int, PromptIds, int]] = []
        """Samples, prompt and limit of all requests that were ever added."""
        self.is_prepared = False
        self.cancelled: list[int] = []
        self.most = 0
        """Requests that were here at once."""
        self._here: dict[int, tuple[str, int]] = {}
        self._written: dict[int, int] = {}

    @property
    def active(self) -> int:
        return len(self._written)

    @property
    def waiting(self) -> int:
        return len(self._here) - len(self._written)

    def prepare(self) -> None:
        self.is_prepared = True

    def add(self, samples: NDArray[np.float32], prompt: PromptIds, *, max_new_tokens: int) -> int:
        number = len(self.taken)
        self.taken.append((len(samples), prompt, max_new_tokens))
        self._here[number] = self.script(samples), max_new_tokens
        self.most = max(self.most, len(self._here))
        return number

    def step(self) -> list[tuple[int, Generated]]:
        for number in self._here:
            if len(self._written) < self.slots:
                self._written.setdefault(number, 0)
        done: list[tuple[int, Generated]] = []
        for number in list(self._written):
            text, limit = self._here[number]
            self._written[number] += 1
            failed = text[:limit][self._written[number] - 1 :].startswith("\0")
            if failed or self._written[number] >= min(len(text), limit):
                text = text[: self._written.pop(number) - failed]
                del self._here[number]
                ids = tuple(map(ord, text))
                done.append((number, Generated(ids, tuple(sureness(text)), failed)))
        return done

    def cancel(self, request: int) -> None:
        self.cancelled.append(request)
        self._here.pop(request, None)
        self._written.pop(request, None)


def sureness(text: str) -> list[float]:
    """The probability that is claimed for each letter of a text."""
    return [0.5 + ord(letter) % 50 / 100 for letter in text]


def voice(seconds: float) -> NDArray[np.float32]:
    """Syllables of a tone: 0.3 s of sound, 0.1 s of silence, over faint noise."""
    count = round(seconds * RATE)
    time = np.arange(count) / RATE
    wave = 0.1 * np.sin(2 * np.pi * 440 * time) * (time % 0.4 < 0.3)
    noise = np.random.default_rng(0).standard_normal(count) * 1e-4
    return (wave + noise).astype(np.float32)
