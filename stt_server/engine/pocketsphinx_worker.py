"""The worker process of pocketsphinx.py: one decoder, one stream at a time, behind two pipes.

Run as a file with the parent's `sys.path` as JSON in its only argument. Imports nothing of ours
and nothing heavy: a caller may be waiting for it to start.

Requests and answers are frames: `HEADER` (kind, payload bytes), then the payload. Every request
is answered by one `HEARD` frame, in order.

    AUDIO   PCM16 at 16 kHz that follows the turn's last; may be empty
    END     the turn is over: its last words
    RESET   forget the stream: the next audio is another speaker's

A `HEARD` payload is a JSON object: `settled` holds the words that became final since the last
answer, `open` those that may yet change. A word is [text, start, end, confidence or null], in
samples since the turn's first. End of input ends the process; so does any failure, on purpose:
the parent replaces it.
"""

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeAlias, cast

AUDIO, END, RESET, HEARD = b"A", b"E", b"R", b"H"
HEADER = struct.Struct("!cI")

HOP_SAMPLES = 160
PIECE_BYTES = 3_200
"""What is decoded at once, 100 ms. Fixed, since the result depends on it: however the audio was
cut into messages, the words are the same."""

MIN_UTTERANCE_HOPS, PAUSE_HOPS = 100, 80
"""A pause of 0.8 s ends pocketsphinx's utterance, not the turn. Ending one costs a second search
over all of it, so that is done while the turn's end is still being decided. Hesitations are
shorter: cutting at 0.4 s tripled the word errors of the clips under tests/audio."""

LONG_UTTERANCE_HOPS, SHORT_PAUSE_HOPS = 1_000, 30
"""After 10 s a pause of 0.3 s will do: the longer the utterance, the longer the final takes."""

MAX_UTTERANCE_HOPS = 2_000
MAX_REPLAY_HOPS, MIN_REPLAY_HOPS = 500, 50
"""Without any pause the utterance is cut after 20 s, 0.5-5 s before its end, and the audio behind
the cut is heard again. Bounds time and memory in an endless turn."""

NICE = 5
"""Decoding yields to the event loop that feeds it."""

_FILLER = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")
_VARIANT = re.compile(r"\(\d+\)$")

WireWord: TypeAlias = tuple[str, int, int, float | None]


class Segment(Protocol):
    """What pocketsphinx tells about a word; frames are hops, `prob` is linear."""

    word: str
    start_frame: int
    end_frame: int
    prob: float


class Decoder(Protocol):
    """The part of `pocketsphinx.Decoder` that is used."""

    def reinit_feat(self) -> None: ...
    def start_utt(self) -> None: ...
    def process_raw(self, data: bytes) -> None: ...
    def end_utt(self) -> None: ...
    def hyp(self) -> object | None: ...
    def seg(self) -> Iterable[Segment] | None: ...


@dataclass(frozen=True, slots=True)
class Span:
    """One segment of an utterance: a word, or a pause or noise; `end` is exclusive, in hops."""

    text: str
    start: int
    end: int
    probability: float
    is_word: bool


class Recogniser:
    """One turn after another of one stream; a turn is decoded in utterances of bounded length."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._waiting = bytearray()
        self._utterance = bytearray()
        self._origin = 0
        """Samples of the turn before the utterance."""
        self._settled: list[WireWord] = []

    def hear(self, pcm: bytes) -> None:
        """Decode what fills whole pieces; the rest waits for more."""
        self._waiting += pcm
        while len(self._waiting) >= PIECE_BYTES:
            self._decode(bytes(self._waiting[:PIECE_BYTES]))
            del self._waiting[:PIECE_BYTES]
            self._bound_utterance()

    def end_turn(self) -> None:
        """Settle everything; the next audio begins a turn."""
        if self._waiting:
            self._decode(bytes(self._waiting))
        self._settled += self._timed(self._end_utterance(), is_final=True)
        self._waiting.clear()
        self._origin = 0

    def reset(self) -> None:
        """Forget the turn and what the features adapted to: cepstral mean and noise floor."""
        self._end_utterance()
        self._waiting.clear()
        self._settled.clear()
        self._origin = 0
        self._decoder.reinit_feat()

    def take_settled(self) -> list[WireWord]:
        """The words that became final since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def open_words(self) -> list[WireWord]:
        """The words of the utterance, as they look now."""
        return self._timed(self._spans(), is_final=False) if self._utterance else []

    def _decode(self, pcm: bytes) -> None:
        if not self._utterance:
            self._decoder.start_utt()
        self._utterance += pcm
        self._decoder.process_raw(pcm)

    def _bound_utterance(self) -> None:
        hops = len(self._utterance) // (2 * HOP_SAMPLES)
        if hops < MIN_UTTERANCE_HOPS:
            return
        spans = self._spans()
        pause = spans[-1].end - spans[-1].start if spans and not spans[-1].is_word else 0
        if pause >= (PAUSE_HOPS if hops < LONG_UTTERANCE_HOPS else SHORT_PAUSE_HOPS):
            self._settled += self._timed(self._end_utterance(), is_final=True)
            self._origin += hops * HOP_SAMPLES
        elif hops >= MAX_UTTERANCE_HOPS:
            self._split_utterance(hops)

    def _split_utterance(self, hops: int) -> None:
        """Settle the words up to a gap near the end and decode the rest anew."""
        pcm = bytes(self._utterance)
        spans = self._end_utterance()
        split = choose_split(spans, hops)
        before = [span for span in spans if span.end <= split]
        self._settled += self._timed(before, is_final=True)
        self._origin += split * HOP_SAMPLES
        rest = pcm[split * HOP_SAMPLES * 2 :]
        for at in range(0, len(rest), PIECE_BYTES):
            self._decode(rest[at : at + PIECE_BYTES])

    def _end_utterance(self) -> list[Span]:
        if not self._utterance:
            return []
        self._utterance.clear()
        self._decoder.end_utt()
        return self._spans()

    def _spans(self) -> list[Span]:
        if self._decoder.hyp() is None:
            return []
        return [
            Span(
                text=_VARIANT.sub("", segment.word),
                start=segment.start_frame,
                end=segment.end_frame + 1,
                probability=segment.prob,
                is_word=_FILLER.fullmatch(segment.word) is None,
            )
            for segment in self._decoder.seg() or ()
        ]

    def _timed(self, spans: list[Span], *, is_final: bool) -> list[WireWord]:
        return [
            (
                span.text,
                self._origin + span.start * HOP_SAMPLES,
                self._origin + span.end * HOP_SAMPLES,
                round(min(max(span.probability, 0.0), 1.0), 3) if is_final else None,
            )
            for span in spans
            if span.is_word
        ]


def choose_split(spans: list[Span], hops: int) -> int:
    """Where to cut an utterance of `hops`: the widest pause near its end, else between words."""
    earliest, latest = hops - MAX_REPLAY_HOPS, hops - MIN_REPLAY_HOPS
    late = [span for span in spans if earliest <= span.start and span.end <= latest]
    pauses = [span for span in late if not span.is_word]
    if pauses:
        widest = max(pauses, key=lambda span: span.end - span.start)
        return (widest.start + widest.end) // 2
    return late[-1].end if late else hops


def load_decoder() -> Decoder:
    """pocketsphinx with the US English model of its package."""
    import pocketsphinx  # pyright: ignore[reportMissingTypeStubs]

    make: Any = pocketsphinx.Decoder
    return cast(Decoder, make(loglevel="FATAL"))


def serve(requests: BinaryIO, answers: BinaryIO, recogniser: Recogniser) -> None:
    """Answer requests until they end."""
    while header := requests.read(HEADER.size):
        kind, length = HEADER.unpack(header)
        payload = requests.read(length)
        if kind == AUDIO:
            recogniser.hear(payload)
        elif kind == END:
            recogniser.end_turn()
        elif kind == RESET:
            recogniser.reset()
        else:
            raise ValueError(f"unknown request {kind!r}")
        heard = {"settled": recogniser.take_settled(), "open": recogniser.open_words()}
        answer = json.dumps(heard).encode()
        answers.write(HEADER.pack(HEARD, len(answer)) + answer)
        answers.flush()


def main() -> None:
    """Serve the parent on stdin and stdout, whatever the terminal or an init system signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICE)
    sys.path[:] = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, answers, Recogniser(load_decoder()))
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    main()
