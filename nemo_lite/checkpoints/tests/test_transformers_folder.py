"""Folders that `transformers` saved, in its own words and with its own classes."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models

from nemo_lite.checkpoints import Checkpoint, load_strictly, read_checkpoint, save_folder
from nemo_lite.checkpoints.key_maps import from_transformers, to_transformers
from nemo_lite.config import AttentionContext
from nemo_lite.errors import CheckpointError, UnsupportedError
from nemo_lite.features import AudioPreprocessor
from nemo_lite.network import Network
from nemo_lite.tests.goldens import GOLDENS, case_names, needs_goldens
from nemo_lite.tokenizer import Tokenizer

VOCABULARY = 19
PIECES = ["<unk>", *(f"▁{letter}" for letter in "abcdefghij"), *"klmnopqr"]

ENCODER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "hidden_act": "silu",
    "attention_bias": True,
    "convolution_bias": True,
    "conv_kernel_size": 9,
    "subsampling_factor": 8,
    "subsampling_conv_channels": 8,
    "subsampling_conv_kernel_size": 3,
    "subsampling_conv_stride": 2,
    "num_mel_bins": 16,
    "scale_input": True,
    "sliding_window": 57,
    "default_num_lookahead_tokens": 3,
}
MODEL: dict[str, Any] = {
    "model_type": "nemotron3_5_asr",
    "architectures": ["Nemotron3_5AsrForRNNT"],
    "vocab_size": VOCABULARY + 1,
    "blank_token_id": VOCABULARY,
    "decoder_hidden_size": 12,
    "num_decoder_layers": 2,
    "hidden_act": "relu",
    "max_symbols_per_step": 7,
    "num_prompts": 5,
    "prompt_intermediate_size": 20,
    "default_prompt_id": 4,
    "encoder_config": ENCODER,
}
PROCESSOR: dict[str, Any] = {
    "supported_num_lookahead_tokens": [13, 6, 3, 0],
    "default_num_lookahead_tokens": 6,
    "prompt_dictionary": {"en-US": 0, "no": 3, "auto": 4},
    "feature_extractor": {
        "feature_size": 16,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "win_length": 320,
        "n_fft": 512,
        "preemphasis": 0.9,
    },
}

STREAMING = ("NemotronAsrStreamingForRNNT", "Nemotron3_5AsrForRNNT")
CLASSES = {
    "NemotronAsrStreamingForRNNT": "NemotronAsrStreamingConfig",
    "Nemotron3_5AsrForRNNT": "Nemotron3_5AsrConfig",
    "ParakeetForCTC": "ParakeetCTCConfig",
    "ParakeetForRNNT": "ParakeetRNNTConfig",
    "ParakeetForTDT": "ParakeetTDTConfig",
}


def tokenizer_json() -> bytes:
    vocabulary = {piece: id for id, piece in enumerate([*PIECES, "<blank>"])}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    library.add_special_tokens(["<unk>", "<blank>"])
    library.decoder = decoders.Metaspace()
    return library.to_str().encode()


def write_folder(folder: Path, **changes: Any) -> Path:
    """The multilingual model as `save_pretrained` writes it; `changes` are of its config.json."""
    (folder / "config.json").write_text(json.dumps(MODEL | changes))
    (folder / "processor_config.json").write_text(json.dumps(PROCESSOR))
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    layers = {f"encoder.layers.{number}.x": torch.zeros(1) for number in range(2)}
    save_file(layers, folder / "model.safetensors")
    return folder


def fill(folder: Path) -> Path:
    """Give the folder weights that fit its configuration, under the names of `transformers`."""
    torch.manual_seed(0)
    state = Network(read_checkpoint(folder).config).state_dict()
    renamed = {
        to_transformers(name, streaming=True): tensor.clone()
        for name, tensor in state.items()
        if not name.startswith("preprocessor.")
    }
    save_file(renamed, folder / "model.safetensors")
    return folder


def require_loadable(checkpoint: Checkpoint) -> Network:
    with torch.device("meta"):
        network = Network(checkpoint.config)
    load_strictly(network, checkpoint.state, source="here", optional=("preprocessor.",))
    return network


def test_configuration_is_mapped(tmp_path: Path) -> None:
    config = read_checkpoint(write_folder(tmp_path)).config
    contexts = tuple(AttentionContext(56, right) for right in (6, 13, 3, 0))
    assert config.encoder.contexts == contexts
    assert config.encoder.streaming
    assert (config.encoder.d_model, config.encoder.heads, config.encoder.layers) == (32, 2, 2)
    assert (config.encoder.ff_size, config.encoder.conv_kernel) == (48, 9)
    assert (config.encoder.subsampling_channels, config.encoder.n_mels) == (8, 16)
    assert config.encoder.xscaling
    assert config.encoder.use_bias
    assert config.vocabulary_size == VOCABULARY
    assert config.max_symbols == 7
    assert config.predictor is not None
    assert (config.predictor.hidden, config.predictor.layers) == (12, 2)
    assert config.joint is not None
    assert (config.joint.activation, config.joint.durations) == ("relu", ())
    assert config.preprocessor.window_samples == 320
    assert config.preprocessor.preemphasis == 0.9
    assert config.preprocessor.normalize is None
    assert config.prompt is not None
    assert (config.prompt.num_prompts, config.prompt.hidden) == (5, 20)
    assert (config.prompt.index(None), config.prompt.index("no")) == (4, 3)


def test_tokenizer_is_cut_to_the_network(tmp_path: Path) -> None:
    tokenizer = read_checkpoint(write_folder(tmp_path)).tokenizer
    assert list(tokenizer.pieces) == PIECES
    assert tokenizer.decode([1, 11, 0, 2]) == "ak b"


def test_weights_are_named_as_nemo_does(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(fill(write_folder(tmp_path)))
    network = require_loadable(checkpoint)
    torch.manual_seed(0)
    made = Network(checkpoint.config).state_dict()
    found = network.state_dict()
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) for name in made)


def test_weights_that_already_have_nemos_prompt_names_are_taken(tmp_path: Path) -> None:
    fill(write_folder(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    renamed = {
        name.replace("prompt_projector.linear_1", "prompt_kernel.0").replace(
            "prompt_projector.linear_2", "prompt_kernel.2"
        ): tensor.clone()
        for name, tensor in state.items()
    }
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "model.safetensors")
    require_loadable(read_checkpoint(tmp_path))
    both = renamed | {name: tensor.clone() for name, tensor in state.items()}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="two tensors have the same meaning"):
        read_checkpoint(tmp_path)


def test_without_a_processor_the_models_own_defaults_remain(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    config = read_checkpoint(tmp_path).config
    assert config.encoder.contexts == (AttentionContext(56, 3),)
    assert config.preprocessor.window_samples == 400
    assert config.prompt is not None
    assert dict(config.prompt.languages) == {"auto": 4}


def test_feature_extractor_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR["feature_extractor"]))
    assert read_checkpoint(tmp_path).config.preprocessor.window_samples == 320


def test_tables_rounded_by_the_feature_extractor_come_with_the_weights(tmp_path: Path) -> None:
    write_folder(tmp_path)
    features = PROCESSOR["feature_extractor"] | {"mel_filters_dtype": "bfloat16"}
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(PROCESSOR | {"feature_extractor": features}))
    checkpoint = read_checkpoint(tmp_path)
    exact = AudioPreprocessor(checkpoint.config.preprocessor).featurizer
    rounded = checkpoint.state["preprocessor.featurizer.fb"]
    assert torch.equal(rounded, exact.fb.bfloat16().float())
    assert checkpoint.state["preprocessor.featurizer.window"].dtype == torch.float32
    features["mel_filters_dtype"] = "__path__"
    path.write_text(json.dumps(PROCESSOR | {"feature_extractor": features}))
    with pytest.raises(CheckpointError, match="mel_filters_dtype is '__path__'"):
        read_checkpoint(tmp_path)


def test_tokenizer_may_be_given_where_none_was_saved(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.model nor tokenizer\.json"):
        read_checkpoint(tmp_path)
    tokenizer = Tokenizer.from_pieces(PIECES)
    assert read_checkpoint(tmp_path, tokenizer=tokenizer).tokenizer is tokenizer


def test_folder_is_not_saved_in_nemos_layout(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="NeMo's configuration"):
        save_folder(read_checkpoint(write_folder(tmp_path)), tmp_path / "copy")


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "another family": ({"model_type": "whisper"}, "model_type 'whisper', not one of"),
    "blank in the middle": ({"blank_token_id": 3}, "blank_token_id is 3, not the last id, 19"),
    "odd joint": ({"hidden_act": "gelu"}, "hidden_act of the joint is 'gelu'"),
    "missing": ({"decoder_hidden_size": None}, "config.json makes no sense: TypeError"),
    "no encoder": ({"encoder_config": {}}, "config.json makes no sense: KeyError"),
    "infinite": ({"vocab_size": float("inf")}, "config.json makes no sense: OverflowError"),
    "look-ahead": ({"encoder_config": ENCODER | {"sliding_window": 9}}, "look-ahead 6 does not"),
    "activation": (
        {"encoder_config": ENCODER | {"hidden_act": "gelu"}},
        "encoder_config.hidden_act is 'gelu', not 'silu'",
    ),
    "half biased": (
        {"encoder_config": ENCODER | {"convolution_bias": False}},
        "convolution_bias is False, not True",
    ),
    "mel bins": (
        {"encoder_config": ENCODER | {"num_mel_bins": 80}},
        "the features have 16 mel bins, the encoder 80",
    ),
    "default prompt": ({"default_prompt_id": 2}, "no language has the default prompt 2"),
    "few prompts": ({"num_prompts": 4}, "language 'auto' has prompt 4"),
    "more tokens": (
        {"vocab_size": 100, "blank_token_id": 99},
        "20 tokens, the network has 99",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_configuration_is_refused(tmp_path: Path, case: str) -> None:
    changes, message = UNUSABLE[case]
    write_folder(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path)


@needs_goldens
def test_folder_of_a_speech_language_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match="config"):
        read_checkpoint(GOLDENS / "salm" / "canary_qwen_model")


@pytest.mark.parametrize(
    ("nemo", "streaming", "offline"),
    [
        ("encoder.pre_encode.conv.0.weight", "conv_in.weight", "layers.0.weight"),
        ("encoder.pre_encode.conv.5.bias", "layers.1.depthwise_conv.bias", "layers.5.bias"),
        ("encoder.pre_encode.conv.6.bias", "layers.1.pointwise_conv.bias", "layers.6.bias"),
        ("encoder.pre_encode.out.weight", "linear.weight", "linear.weight"),
    ],
)
def test_subsampling_has_other_names_in_each_family(
    nemo: str, streaming: str, offline: str
) -> None:
    assert to_transformers(nemo, streaming=True) == f"encoder.subsampling.{streaming}"
    assert to_transformers(nemo, streaming=False) == f"encoder.subsampling.{offline}"


@needs_goldens
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_every_key_of_the_goldens_is_mapped_there_and_back(name: str, streaming: bool) -> None:
    meta = json.loads((GOLDENS / "nemo_files" / f"{name}.json").read_text())
    keys: list[str] = list(meta["expected"]["state_dict"])
    others = [to_transformers(key, streaming=streaming) for key in keys]
    assert [from_transformers(other) for other in others] == keys
    assert len(set(others)) == len(keys)


def save_pretrained(name: str, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Save a model with random weights by `transformers` itself; its parameters."""
    library: Any = pytest.importorskip("transformers")
    streaming = name in STREAMING
    live = () if streaming else ("sliding_window", "default_num_lookahead_tokens")
    encoder = {name: value for name, value in ENCODER.items() if name not in live}
    config: dict[str, Any] = {"vocab_size": VOCABULARY + 1, "encoder_config": encoder}
    if name == "ParakeetForCTC":
        config["pad_token_id"] = VOCABULARY
    else:
        config |= {"blank_token_id": VOCABULARY, "decoder_hidden_size": 12}
    if name == "ParakeetForTDT":
        config["durations"] = [0, 1, 2, 4]
    if name == "Nemotron3_5AsrForRNNT":
        config |= {"num_prompts": 6, "prompt_intermediate_size": 24, "default_prompt_id": 5}
    torch.manual_seed(0)
    model = getattr(library, name)(getattr(library, CLASSES[name])(**config))
    model.save_pretrained(folder, **options)
    return model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}])
@pytest.mark.parametrize("name", CLASSES)
def test_saved_model_fits_the_network_tensor_by_tensor(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    saved = save_pretrained(name, tmp_path, **options)
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(options)
    checkpoint = read_checkpoint(tmp_path, tokenizer=Tokenizer.from_pieces(PIECES))
    assert checkpoint.target == name
    network = require_loadable(checkpoint)
    loaded = network.state_dict()
    wanted = {k for k in loaded if not k.startswith("preprocessor.")}
    tensors = {k: v for k, v in saved.items() if not k.endswith("num_batches_tracked")}
    assert {from_transformers(k) for k in tensors} == wanted
    for key, tensor in tensors.items():
        assert torch.equal(loaded[from_transformers(key)], tensor)
        assert to_transformers(from_transformers(key), streaming=name in STREAMING) == key


@pytest.mark.slow
def test_saved_offline_models_are_described(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pieces(PIECES)
    save_pretrained("ParakeetForTDT", tmp_path)
    config = read_checkpoint(tmp_path, tokenizer=tokenizer).config
    assert config.joint is not None
    assert config.joint.durations == (0, 1, 2, 4)
    assert config.preprocessor.normalize == "per_feature"
    assert (config.encoder.contexts, config.encoder.conv_norm) == ((), "batch_norm")
    save_pretrained("ParakeetForCTC", tmp_path)
    config = read_checkpoint(tmp_path, tokenizer=tokenizer).config
    assert (config.ctc, config.ctc_prefix, config.joint) == (True, "decoder", None)


@pytest.mark.slow
def test_saved_processor_is_understood(tmp_path: Path) -> None:
    save_pretrained("Nemotron3_5AsrForRNNT", tmp_path)
    library: Any = importlib.import_module("transformers")
    parakeet = importlib.import_module("transformers.models.parakeet.tokenization_parakeet")
    backend = tokenizers.Tokenizer.from_buffer(tokenizer_json())
    processor = library.Nemotron3_5AsrProcessor(
        library.NemotronAsrStreamingFeatureExtractor(feature_size=16, win_length=320),
        parakeet.ParakeetTokenizer(tokenizer_object=backend, pad_token="<blank>"),
        supported_num_lookahead_tokens=[3, 0, 6, 13],
        prompt_dictionary={"en-US": 0, "auto": 5},
        num_prompts=6,
    )
    processor.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert [each.right for each in checkpoint.config.encoder.contexts] == [3, 0, 6, 13]
    assert checkpoint.config.preprocessor.window_samples == 320
    assert checkpoint.config.prompt is not None
    assert dict(checkpoint.config.prompt.languages) == {"en-US": 0, "auto": 5}
    assert checkpoint.tokenizer.decode([1, 11, 2]) == "ak b"
