"""The full-size configurations are those of the published checkpoints."""

import pytest
import torch

from benchmarks.full_size import CONFIGS
from nemo_lite.config import ModelConfig
from nemo_lite.network import Network
from nemo_lite.registry import REGISTRY


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() & REGISTRY.keys()))
def test_float32_parameters_are_as_large_as_the_published_file(name: str) -> None:
    with torch.device("meta"):
        network = Network(ModelConfig.from_nemo(CONFIGS[name]))
    size = 4 * sum(parameter.numel() for parameter in network.parameters())
    published = REGISTRY[name].size_bytes
    assert published is not None
    # The file holds a tokenizer, a configuration and headers besides.
    assert 0.997 * published < size < published
