"""Greedy decoding: encoder frames to tokens, whole files and live streams alike.

`RnntDecoder` (RNN-T and TDT) and `CtcDecoder` share the shape of `GreedyDecoder`; `trace` and
`confidence` hold what NeMo says about a decoding besides its tokens.
"""

from nemo_lite.decoding.base import Decoded, DecoderSnapshot, DecoderState, GreedyDecoder
from nemo_lite.decoding.ctc import CtcDecoder, CtcHead
from nemo_lite.decoding.joint import Joint
from nemo_lite.decoding.predictor import Predictor
from nemo_lite.decoding.prompt import LanguagePrompt
from nemo_lite.decoding.rnnt import RnntDecoder
from nemo_lite.decoding.words import words

__all__ = [
    "CtcDecoder",
    "CtcHead",
    "Decoded",
    "DecoderSnapshot",
    "DecoderState",
    "GreedyDecoder",
    "Joint",
    "LanguagePrompt",
    "Predictor",
    "RnntDecoder",
    "words",
]
