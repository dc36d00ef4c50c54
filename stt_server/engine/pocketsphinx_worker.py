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
shorter: cutting at 0.3-0.5 s multiplied the word errors of the clips under tests/audio by 4-6."""

LONG_UTTERANCE_HOPS, SHORT_PAUSE_HOPS = 1_000, 30
"""After 10 s a pause of 0.3 s will do: the longer the utterance, the longer the final takes."""

MAX_UTTERANCE_HOPS = 1_500
MAX_REPLAY_HOPS, MIN_REPLAY_HOPS = 200, 50
"""Without any pause the utterance is cut after 15 s, 0.5-2 s before its end, and the audio behind
the cut is heard again. Bounds time and memory in an endless turn."""

PRIOR_MEAN = (54.0, 6.5, 3.0, 15.0, 0.0, 0.0, 3.0, -3.0, -1.0, -1.0, 4.0, 2.0, 0.0)
"""Mean cepstrum of speech that peaks at -4 dBFS; the first number moves by about 1.15 per dB."""
PRIOR_HOPS, MEMORY_HOPS = 200, 500
LEARN_PIECES = 3

MAX_ACTIVE_STATES = 3_000
"""Of the search, per hop; a tenth of the default costs no accuracy and saves a third of the time
(a narrower beam, one search pass fewer or a heavier language model all cost words)."""

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
    def get_cmn(self, update: bool) -> str: ...
    def set_cmn(self, cmn: str) -> None: ...
    def n_frames(self) -> int: ...
    def start_utt(self) -> None: ...
    def process_raw(self, data: bytes) -> None: ...
    def end_utt(self) -> None: ...
    def hyp(self) -> object | None: ...
    def seg(self) -> Iterable[Segment] | None: ...


@dataclass(frozen=True, slots=True)
class Span:
    """One segment of an utterance: a word, or a pause or noise; `end` is exclusive, in hops.

    `probability` is the word's posterior in the utterance's lattice (forward-backward scores of
    the third search pass, `ps_seg_prob`), so it means something only once the utterance ended.
    On the clips under tests/audio wrong words have 0.0-0.4, right ones 0.96 in the median.
    """

    text: str
    start: int
    end: int
    probability: float
    is_word: bool


class CepstralMean:
    """What the features are normalised by: the mean over the stream's speech so far.

    pocketsphinx keeps one, but gives its prior the weight of 5 s and does not move it within the
    first 3 s of an utterance: too slow for short turns at a level other than the prior's.
    """

    DECODER_PRIOR_HOPS = 500
    """Weight of what `set_cmn` sets against the frames that follow (CMN_WIN in cmn.h)."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._sum = [value * PRIOR_HOPS for value in PRIOR_MEAN]
        self._hops = PRIOR_HOPS
        self._learnt_to = 0

    def start(self) -> None:
        """An utterance begins: what the decoder made of the last one is dropped."""
        self._learnt_to = 0
        self._apply()

    def learn(self, *, is_speech: bool) -> None:
        """Take in the hops of the utterance since the last call, unless they are silence."""
        now = self._decoder.n_frames()
        hops, self._learnt_to = now - self._learnt_to, now
        if is_speech and hops > 0:
            before = parse_mean(self._decoder.get_cmn(False))
            after = parse_mean(self._decoder.get_cmn(True))
            prior = self.DECODER_PRIOR_HOPS
            # `after` is (prior * before + hops * mean) / (prior + hops): solved for hops * mean.
            news = [(prior + hops) * a - prior * b for a, b in zip(after, before, strict=True)]
            self._sum = [old + new for old, new in zip(self._sum, news, strict=True)]
            self._hops += hops
            if self._hops > MEMORY_HOPS:
                self._sum = [value * MEMORY_HOPS / self._hops for value in self._sum]
                self._hops = MEMORY_HOPS
        self._apply()

    def _apply(self) -> None:
        self._decoder.set_cmn(",".join(f"{value / self._hops:.6g}" for value in self._sum))


def parse_mean(cmn: str) -> list[float]:
    return [float(value) for value in cmn.split(",")]


class Recogniser:
    """One turn after another of one stream; a turn is decoded in utterances of bounded length."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._waiting = bytearray()
        self._utterance = bytearray()
        self._origin = 0
        """Samples of the turn before the utterance."""
        self._pieces = 0
        self._settled: list[WireWord] = []
        self._mean = CepstralMean(decoder)

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
        self._mean = CepstralMean(self._decoder)

    def take_settled(self) -> list[WireWord]:
        """The words that became final since the last call."""
        settled, self._settled = self._settled, []
        return settled

    def open_words(self) -> list[WireWord]:
        """The words of the utterance, as they look now."""
        return self._timed(self._spans(), is_final=False) if self._utterance else []

    def _decode(self, pcm: bytes) -> None:
        if not self._utterance:
            self._mean.start()
            self._decoder.start_utt()
            self._pieces = 0
        self._utterance += pcm
        self._decoder.process_raw(pcm)
        self._pieces += 1
        if self._pieces % LEARN_PIECES == 0:
            self._mean.learn(is_speech=pause_hops(self._spans()) < SHORT_PAUSE_HOPS)

    def _bound_utterance(self) -> None:
        hops = len(self._utterance) // (2 * HOP_SAMPLES)
        if hops < MIN_UTTERANCE_HOPS:
            return
        spans = self._spans()
        pause = pause_hops(spans)
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


def pause_hops(spans: list[Span]) -> int:
    """Length of the pause at the end of an utterance."""
    return spans[-1].end - spans[-1].start if spans and not spans[-1].is_word else 0


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

    return cast(Any, pocketsphinx).Decoder(loglevel="FATAL", maxhmmpf=MAX_ACTIVE_STATES)


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
