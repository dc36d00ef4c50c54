"""Writes the memory a network takes and what `required_bytes` says: `python … bfloat16 3`.

A process of its own, as the peak of a process never falls. Sizes are a tenth of the published ones.
"""

import sys
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch

from nemo_lite.config import EncoderConfig, PreprocessorConfig
from nemo_lite.features import AudioPreprocessor
from nemo_lite.number_formats import DtypeName, torch_dtype
from nemo_lite.salm.config import Qwen3Config, SalmConfig
from nemo_lite.salm.generation import GenerationBatch
from nemo_lite.salm.int8 import quantise
from nemo_lite.salm.limits import POSITIONS
from nemo_lite.salm.memory import required_bytes
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tokenizer import PromptIds

CONFIG = SalmConfig(
    preprocessor=PreprocessorConfig(n_mels=128, normalize="per_feature"),
    encoder=EncoderConfig(
        n_mels=128, layers=6, d_model=512, heads=8, ff_size=2_048, xscaling=False
    ),
    output_width=1_024,
    audio_tag="",
    base_model="",
    lora_rank=0,
    lora_alpha=0.0,
    lora_modules=(),
)
LLM = Qwen3Config(
    vocabulary_size=30_000,
    width=1_024,
    layers=8,
    heads=8,
    kv_heads=4,
    head_size=128,
    ff_size=3_072,
    norm_eps=1e-6,
    rope_theta=1e6,
    tied=True,
)


def build(dtype: DtypeName) -> SalmNetwork:
    with torch.device("meta"):
        network = SalmNetwork(CONFIG, LLM)
    kind = torch.bfloat16 if dtype == "int8" else torch_dtype(dtype)
    network.lm_head.register_parameter("weight", None)  # is the embedding's
    network._apply(lambda tensor: torch.full(tensor.shape, 0.01, dtype=kind))
    network.perception.preprocessor = AudioPreprocessor(CONFIG.preprocessor)
    network.lm_head.weight = network.embed_tokens.weight
    if dtype == "int8":
        quantise(network, threads=1)
    return network.requires_grad_(False).eval()


def peak_bytes() -> int:
    # Not getrusage: its peak is at least what the process that started this one had.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) * 1_024


def main(dtype: DtypeName, slots: int) -> None:
    torch.set_num_threads(1)
    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))
    before = peak_bytes()
    network = build(dtype)
    batch = GenerationBatch(network, slots=slots, length=POSITIONS, end_tokens=frozenset())
    samples = np.random.default_rng(0).standard_normal(40 * 16_000).astype(np.float32)
    for _ in range(slots):
        batch.add(samples, PromptIds((1, 2, 3), (4, 5)), max_new_tokens=3)
    while batch.active or batch.waiting:
        batch.step()
    taken = peak_bytes() - before
    wanted = required_bytes(CONFIG, LLM, dtype, slots=slots)
    sys.stdout.write(f"{taken} {wanted}\n")


if __name__ == "__main__":
    assert sys.argv[1] in get_args(DtypeName)
    main(cast("DtypeName", sys.argv[1]), int(sys.argv[2]))
