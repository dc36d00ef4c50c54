"""Short names of published checkpoints, and what is known of them without fetching anything.

`hub.py` downloads what is listed here. What a checkpoint can do is decided by its own
configuration; the facts here are for choosing one, and for lists.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from nemo_lite.errors import UnknownModelError


class Feature(StrEnum):
    """What a model gives besides words."""

    PUNCTUATION = "punctuation"
    """Punctuation and capital letters."""
    EOU = "eou"
    """`<EOU>` and `<EOB>` tokens at the end of utterances."""
    PROMPTS = "prompts"
    """The language can be prompted, and is found where it is not."""
    CTC = "ctc"
    """A CTC decoder beside the transducer."""
    SPEAKERS = "speakers"
    """Who speaks when."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a hub. `digest` is a SHA-256 (64 hex digits) or a git blob's SHA-1 (40).

    `name` is where it lies in the checkpoint's folder, and in the checkpoint's repository unless
    `elsewhere` is its path on the hub, `owner/name/resolve/commit/file`.
    """

    name: str
    size_bytes: int
    digest: str
    elsewhere: str = ""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One published checkpoint.

    `revision` is the commit that `files` belong to, so that a name means the same bytes for ever.
    `loader` is None for a family this library cannot load yet; `files` is then empty. "onnx" is for
    a graph that is downloaded here and run elsewhere. `lookaheads` are in encoder frames, the
    default first.
    """

    name: str
    repo: str
    revision: str
    files: tuple[RemoteFile, ...]
    family: Literal["transducer", "salm", "multitalker", "diarizer", "turns"]
    loader: Literal["transducer", "salm", "onnx"] | None
    lookaheads: tuple[int, ...]
    languages: tuple[str, ...]
    licence: str
    features: frozenset[Feature]
    description: str

    @property
    def size_bytes(self) -> int:
        """What a download takes; 0 where the files are not listed."""
        return sum(file.size_bytes for file in self.files)


def find(name: str) -> ModelEntry:
    """The entry with this short name or hub id (`owner/name`); case does not matter.

    Raises:
        UnknownModelError: there is none; the message lists close names, or all.
    """
    wanted = name.casefold()
    for entry in REGISTRY.values():
        if wanted in (entry.name, entry.repo.casefold()):
            return entry
    close = difflib.get_close_matches(wanted, REGISTRY, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(REGISTRY)}"
    raise UnknownModelError(f"there is no model called {name!r}: {hint}")


_OPEN_MODEL = "NVIDIA Open Model"
_NEMOTRON_LANGUAGES = (
    "en es de fr it ar ja ko pt ru hi zh vi he nl cs da pl no sv th tr bg el et fi hr hu lt lv ro "
    "sk uk mt sl"
)

_SMART_TURN_LANGUAGES = "ar bn zh da nl de en fi fr hi id it ja ko mr no pl pt ru es tr uk vi"

BASE_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
"""What is read of a language model whose weights lie in the checkpoint that builds upon it."""

_QWEN = "Qwen/Qwen3-1.7B"
_QWEN_COMMIT = "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e"
_QWEN_FILES = (
    RemoteFile(
        "config.json",
        726,
        "1ddb5b89ebc90dcb417a45c213d818577e65976454d29385c8f6140771d95197",
    ),
    RemoteFile(
        "tokenizer.json",
        11_422_654,
        "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    ),
    RemoteFile(
        "tokenizer_config.json",
        9_732,
        "d5d09f07b48c3086c508b30d1c9114bd1189145b74e982a265350c923acd8101",
    ),
)
BASE_MODELS: Mapping[str, tuple[str, tuple[RemoteFile, ...]]] = {_QWEN: (_QWEN_COMMIT, _QWEN_FILES)}
"""Hub ids that checkpoints name as their base: the commit, and `BASE_MODEL_FILES` of it."""

# Commits, sizes and digests were not read from the hub itself but from several independent public
# projects that pin these files and agree with each other. A wrong one can only make a download
# fail, with a message that says so. Look-aheads and languages are what model cards say.
_ENTRIES = (
    ModelEntry(
        name="nemotron-en",
        repo="nvidia/nemotron-speech-streaming-en-0.6b",
        revision="ebe59e5a817142986528bbbee5dba8db7b38ed50",
        files=(
            RemoteFile(
                "nemotron-speech-streaming-en-0.6b.nemo",
                2_473_041_920,
                "283638054c44f6794e74fe9af9048d78a6d9d6c058c12131856c7859a62ac9cd",
            ),
        ),
        family="transducer",
        loader="transducer",
        lookaheads=(13, 6, 1, 0),
        languages=("en",),
        licence=_OPEN_MODEL,
        features=frozenset({Feature.PUNCTUATION}),
        description="English, large, with punctuation",
    ),
    ModelEntry(
        name="nemotron-multi",
        repo="nvidia/nemotron-3.5-asr-streaming-0.6b",
        revision="ea30d66debe3740a08b573244286791d423d6b3e",
        # The repository's .nemo archive is gzipped (its size is no whole number of tar blocks), so
        # that it would be unpacked at every start; the safetensors beside it are mapped.
        files=(
            RemoteFile(
                "config.json",
                1_376,
                "62d186fd91f518e00e7867500f1f5819225e8ee95ea3e21b546514bf2048e845",
            ),
            RemoteFile(
                "generation_config.json",
                193,
                "993e5d4cb74a6fe9d6e7084a76b3313c1446740679be4676570c23b664fdc07e",
            ),
            RemoteFile(
                "processor_config.json",
                2_519,
                "ec47870f1091ea4f25539208387b45b902c92d0e3f997a30061ef88f73437ab0",
            ),
            RemoteFile(
                "tokenizer.json",
                752_051,
                "3f3d481deb073b64c2082e8c7860d487a3a62774bf4e9e4faac83007e181f246",
            ),
            RemoteFile(
                "tokenizer_config.json",
                881,
                "5c641c5b3f50702a60082690d27c1ce7fcb5a92c4a624793bcae0f21eda3d6e0",
            ),
            RemoteFile(
                "model.safetensors",
                2_552_062_944,
                "9eebdd6590289cb3030f310858f3df93256600a800a3e8200c5993d5f967e174",
            ),
        ),
        family="transducer",
        loader="transducer",
        lookaheads=(3, 0, 6, 13),
        languages=tuple(_NEMOTRON_LANGUAGES.split()),
        licence="OpenMDW-1.1",
        features=frozenset({Feature.PUNCTUATION, Feature.PROMPTS}),
        description="35 languages, prompted or detected, large, with punctuation",
    ),
    ModelEntry(
        name="parakeet-eou",
        repo="nvidia/parakeet_realtime_eou_120m-v1",
        revision="a7e2b4629593dce0ec19f600e00e9904353fda2d",
        files=(
            RemoteFile(
                "parakeet_realtime_eou_120m-v1.nemo",
                460_062_720,
                "6603a22a53b7c1a4bac4736cb24628fb568a7102ba931a28c799e2e72f109893",
            ),
        ),
        family="transducer",
        loader="transducer",
        lookaheads=(1,),
        languages=("en",),
        licence=_OPEN_MODEL,
        features=frozenset({Feature.EOU}),
        description="English, small, lower case, marks the end of an utterance",
    ),
    ModelEntry(
        name="fastconformer-multi",
        repo="nvidia/stt_en_fastconformer_hybrid_large_streaming_multi",
        revision="ae98143333690bd7ced4bc8ec16769bcb8918374",
        files=(
            RemoteFile(
                "stt_en_fastconformer_hybrid_large_streaming_multi.nemo",
                459_673_600,
                "8db5289d5238aca839b84f5afdd66eb1aa64413feb9c2a915940b291012aff8b",
            ),
        ),
        family="transducer",
        loader="transducer",
        lookaheads=(13, 6, 1, 0),
        languages=("en",),
        licence="CC-BY-4.0",
        features=frozenset({Feature.CTC}),
        description="English, small, lower case, transducer and CTC",
    ),
    ModelEntry(
        name="canary-qwen",
        repo="nvidia/canary-qwen-2.5b",
        revision="b1469e1bba1cfe140205529c79c434ca47180960",
        files=(
            RemoteFile(
                "config.json",
                2_382,
                "37d15b0445fade873944c9b0cda7221953ec2207169cb6488a3a57d90e629d52",
            ),
            RemoteFile(
                "model.safetensors",
                5_119_120_624,
                "800cb0d099cf655a8887d8b741c3a4afa9891e2b2949870251c4d58c72b59175",
            ),
            # The repository has the language model's weights, but names these files only.
            *(
                replace(
                    file,
                    name=f"llm_backbone/{file.name}",
                    elsewhere=f"{_QWEN}/resolve/{_QWEN_COMMIT}/{file.name}",
                )
                for file in _QWEN_FILES
            ),
        ),
        family="salm",
        loader="salm",
        lookaheads=(),
        languages=("en",),
        licence="CC-BY-4.0",
        features=frozenset({Feature.PUNCTUATION}),
        description="English, whole segments, with a language model",
    ),
    ModelEntry(
        name="multitalker",
        repo="nvidia/multitalker-parakeet-streaming-0.6b-v1",
        revision="8749fc71fd6e2d88ef230159bbf2aea69b524ee1",
        files=(),
        family="multitalker",
        loader=None,
        lookaheads=(13, 6, 1, 0),
        languages=("en",),
        licence=_OPEN_MODEL,
        features=frozenset({Feature.PUNCTUATION, Feature.SPEAKERS}),
        description="English, several speakers at once, beside a diarizer",
    ),
    ModelEntry(
        name="sortformer",
        repo="nvidia/diar_streaming_sortformer_4spk-v2.1",
        revision="fafaab5faa1617a0ca52d38dd3dc4bd636800d3d",
        files=(),
        family="diarizer",
        loader=None,
        lookaheads=(),
        languages=(),
        licence=_OPEN_MODEL,
        features=frozenset({Feature.SPEAKERS}),
        description="Who speaks when, up to four speakers",
    ),
    ModelEntry(
        name="nemotron-diar",
        repo="nvidia/Nemotron-3-Diarization",
        revision="f667ed73aee57d40cc39428eb768b4fd87a0a29e",
        files=(),
        family="diarizer",
        loader=None,
        lookaheads=(),
        languages=(),
        licence="OpenMDW-1.1",
        features=frozenset({Feature.SPEAKERS}),
        description="Who speaks when, up to eight speakers",
    ),
    ModelEntry(
        name="smart-turn",
        repo="pipecat-ai/smart-turn-v3",
        revision="f766f81d3cfdf7737ac64aad813d91bbfd56bf93",
        files=(
            RemoteFile(
                "smart-turn-v3.2-cpu.onnx",
                8_679_182,
                "2bb026316b14a660486a75b1733cd3fbab8c2fd0314dc9af7be49f8cca967e4f",
            ),
        ),
        family="turns",
        loader="onnx",
        lookaheads=(),
        languages=tuple(_SMART_TURN_LANGUAGES.split()),
        licence="BSD-2-Clause",
        features=frozenset(),
        description="Whether a turn is complete, from its sound; no words",
    ),
)

REGISTRY: Mapping[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}
"""The entries by short name, in the order a list should show them."""
