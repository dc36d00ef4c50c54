"""Folders as NeMo writes them, in every layout there is; damaged ones, hostile ones."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from nemo_lite.errors import CheckpointError, NemoLiteError
from nemo_lite.salm.checkpoint import SalmCheckpoint, load_network, read_salm
from nemo_lite.salm.network import SalmNetwork
from nemo_lite.salm.tests.tiny import CONFIG, LLM, tiny_network, write_salm_folder

State = dict[str, Tensor]
LM = "llm.base_model.model."
QUERY = "llm.layers.0.self_attn.q_proj.weight"
PEFT_QUERY = f"{LM}model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_salm_folder(tmp_path_factory.mktemp("salm"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "salm"))


def rewrite(folder: Path, change: Callable[[State], State | None]) -> Path:
    """Change the weights' file; a change works in place or gives other tensors."""
    state = {
        name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()
    }
    state = change(state) or state
    save_file(state, folder / "model.safetensors")
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change a JSON file; a key such as `perception__encoder` reaches into sections."""
    document = json.loads(path.read_text())
    for key, value in changes.items():
        *sections, last = key.split("__")
        section = document
        for name in sections:
            section = section[name]
        section[last] = value
    path.write_text(json.dumps(document))


def float32(checkpoint: SalmCheckpoint) -> SalmNetwork:
    return load_network(checkpoint, device="cpu", dtype=torch.float32)


def require_same(network: SalmNetwork, other: SalmNetwork, *, atol: float = 1e-5) -> None:
    ours, theirs = network.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=atol, rtol=0)


def test_what_nemo_writes_is_read_whole(sound: Path) -> None:
    checkpoint = read_salm(sound)

    assert (checkpoint.config, checkpoint.llm, checkpoint.source) == (CONFIG, LLM, sound)
    assert {name.rpartition("layers.")[2] for name in checkpoint.adapters} == {
        f"{layer}.self_attn.{kind}_proj.weight" for layer in range(2) for kind in "qv"
    }
    assert "lm_head.weight" not in checkpoint.state
    assert not any("lora" in name or "num_batches" in name for name in checkpoint.state)
    assert checkpoint.tokenizer.prompt().before


def test_network_is_the_one_that_was_written(sound: Path) -> None:
    network = float32(read_salm(sound))

    require_same(network, tiny_network())
    assert network.lm_head.weight is network.embed_tokens.weight
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_reading_takes_no_memory_and_loading_leaves_no_file_in_use(folder: Path) -> None:
    checkpoint = read_salm(folder)
    mapped = {tensor.data_ptr() for tensor in checkpoint.state.values()}
    network = float32(checkpoint)
    (folder / "model.safetensors").write_bytes(b"")

    assert checkpoint.state == {}
    assert checkpoint.adapters == {}
    assert not mapped & {tensor.data_ptr() for tensor in network.state_dict().values()}
    require_same(network, tiny_network())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_have_the_wanted_dtype_and_features_stay_exact(
    sound: Path, dtype: torch.dtype
) -> None:
    network = load_network(read_salm(sound), device="cpu", dtype=dtype)

    tables = set(network.perception.preprocessor.buffers())
    assert all(table.dtype == torch.float32 for table in tables)
    others = set(network.parameters()) | set(network.buffers()) - tables
    assert {tensor.dtype for tensor in others} == {dtype}


def test_options_of_adapters_that_are_off_change_nothing(folder: Path) -> None:
    off = {"use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}}
    off |= {"bias": "none", "modules_to_save": None, "layers_to_transform": None}
    off |= {"init_lora_weights": True, "lora_dropout": 0.01, "inference_mode": True}
    edit(folder / "config.json", **{f"lora__{name}": value for name, value in off.items()})

    require_same(float32(read_salm(folder)), tiny_network())


@pytest.mark.parametrize("part", ["layers.1.", "v_proj"])
def test_adapters_that_the_configuration_does_not_name_are_in_every_layer(
    folder: Path, part: str
) -> None:
    edit(folder / "config.json", lora__target_modules=None)
    require_same(float32(read_salm(folder)), tiny_network())

    with pytest.raises(CheckpointError, match="2 adapters are missing"):
        read_salm(rewrite(folder, without_adapters(part)))


def test_adapters_of_a_bfloat16_file_are_merged_in_float32(tmp_path: Path) -> None:
    folder = write_salm_folder(tmp_path, dtype=torch.bfloat16)
    checkpoint = read_salm(folder)
    base, (a, b) = checkpoint.state[QUERY], checkpoint.adapters[QUERY]
    exact = base.double() + CONFIG.lora_scale * b.double() @ a.double()

    assert base.dtype == torch.bfloat16
    merged = dict(float32(checkpoint).named_parameters())[QUERY]
    torch.testing.assert_close(merged.double(), exact, atol=1e-6, rtol=1e-6)
    narrow = load_network(read_salm(folder), device="cpu", dtype=torch.bfloat16)
    assert torch.equal(dict(narrow.named_parameters())[QUERY], merged.bfloat16())


def test_shards_are_read_like_one_file(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: state[name].clone() for name in part}, folder / shard)
    index = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "model.safetensors").unlink()

    require_same(float32(read_salm(folder)), tiny_network())


def merged_state(state: State) -> State:
    """Plain weights without a trace of adapters, as after `merge_and_unload`."""
    network = tiny_network().state_dict()
    plain = {key: tensor for key, tensor in state.items() if not key.startswith(LM)}
    language = {
        f"llm.model.{name[4:]}": tensor for name, tensor in network.items() if name[:4] == "llm."
    }
    return plain | language


def renamed(old: str, new: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[new] = state.pop(old)

    return change


def copied(old: str, new: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[new] = state[old].clone()

    return change


def without_tables(state: State) -> None:
    for table in ("fb", "window"):
        del state[f"perception.preprocessor.featurizer.{table}"]


def short_adapter_names(state: State) -> None:
    for name in [name for name in state if ".default" in name]:
        state[name.replace(".default", "")] = state.pop(name)


def training_leftovers(state: State) -> None:
    state["perception.encoder.pos_enc.pe"] = torch.zeros(1, 9, 16)
    state[f"{LM}model.rotary_emb.inv_freq"] = torch.zeros(8)


@pytest.mark.parametrize(
    "change",
    [
        merged_state,
        renamed("embed_tokens.weight", f"{LM}model.embed_tokens.weight"),
        renamed("embed_tokens.weight", f"{LM}lm_head.weight"),
        copied("embed_tokens.weight", f"{LM}lm_head.weight"),
        copied("embed_tokens.weight", "lm_head.weight"),
        copied("embed_tokens.weight", f"{LM}model.embed_tokens.weight"),
        without_tables,
        short_adapter_names,
        training_leftovers,
    ],
    ids=[
        "merged adapters",
        "embedding inside the language model",
        "only the head",
        "tied head stored",
        "tied head outside",
        "embedding twice",
        "no tables",
        "older peft",
        "leftovers of training",
    ],
)
def test_other_layouts_give_the_same_network(
    folder: Path, change: Callable[[State], State | None]
) -> None:
    require_same(float32(read_salm(rewrite(folder, change))), tiny_network())


@pytest.mark.parametrize("head", [f"{LM}lm_head.weight", "llm.lm_head.weight", "lm_head.weight"])
def test_head_of_its_own_is_read(tmp_path: Path, head: str) -> None:
    llm = replace(LLM, tied=False)
    folder = write_salm_folder(tmp_path, llm=llm)
    if head != f"{LM}lm_head.weight":
        rewrite(folder, renamed(f"{LM}lm_head.weight", head))
    network = float32(read_salm(folder))

    require_same(network, tiny_network(llm=llm))
    assert network.lm_head.weight is not network.embed_tokens.weight


def test_checkpoint_that_never_had_adapters_is_read(tmp_path: Path) -> None:
    config = replace(CONFIG, lora_rank=0, lora_alpha=0.0, lora_modules=())
    folder = write_salm_folder(tmp_path, config=config)
    edit(folder / "config.json", lora=None)

    require_same(float32(read_salm(folder)), tiny_network())


def dropped(name: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        del state[name]

    return change


def put(name: str, tensor: Tensor) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = tensor

    return change


def without_adapters(part: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        for name in [name for name in state if ".lora_" in name and part in name]:
            del state[name]

    return change


def lost_adapter(state: State) -> None:
    """A weight that looks as if its adapter was merged, unlike the others."""
    without_adapters("layers.0.self_attn.q_proj")(state)
    state[f"{PEFT_QUERY}.weight"] = state.pop(f"{PEFT_QUERY}.base_layer.weight")


def added_adapter(state: State) -> None:
    key = PEFT_QUERY.replace("q_proj", "k_proj")
    weight = state[f"{key}.weight"]
    state[f"{key}.lora_A.default.weight"] = torch.ones(CONFIG.lora_rank, weight.shape[1])
    state[f"{key}.lora_B.default.weight"] = torch.ones(weight.shape[0], CONFIG.lora_rank)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (dropped("perception.proj.bias"), r"1 missing: perception\.proj\.bias"),
        (dropped("embed_tokens.weight"), r"missing: .*embed_tokens\.weight"),
        (dropped(f"{LM}model.norm.weight"), r"1 missing: llm\.norm\.weight"),
        (put("extra.weight", torch.ones(1)), r"1 unexpected: extra\.weight"),
        (put("norm.weight", torch.ones(32)), r"1 unexpected: norm\.weight"),
        (
            put(f"{PEFT_QUERY}.lora_magnitude_vector.default.weight", torch.ones(64)),
            "1 unexpected: .*lora_magnitude",
        ),
        (
            put("perception.proj.weight", torch.ones(32, 15)),
            r"perception\.proj\.weight float32 \[32, 15\] instead of float32 \[32, 16\]",
        ),
        (
            put("embed_tokens.weight", torch.ones(96, 32, dtype=torch.int8)),
            r"embed_tokens\.weight int8",
        ),
        (dropped(f"{PEFT_QUERY}.lora_B.default.weight"), "q_proj.weight lacks a part"),
        (dropped(f"{PEFT_QUERY}.base_layer.weight"), "q_proj.weight lacks a part"),
        (
            put(f"{PEFT_QUERY}.lora_A.default.weight", torch.ones(5, 32)),
            r"shapes \[5, 32\] and \[64, 4\]",
        ),
        (
            put(f"{PEFT_QUERY}.lora_A.default.weight", torch.ones(4, 31)),
            r"shapes \[4, 31\] and \[64, 4\]",
        ),
        (without_adapters("layers.1."), "2 adapters are missing, such as that of llm.layers.1"),
        (without_adapters("v_proj"), "2 adapters are missing, such as that of .*v_proj"),
        (without_adapters(""), "4 adapters are missing, such as that of .*q_proj"),
        (lost_adapter, "1 adapters are missing, such as that of .*layers.0.*q_proj"),
        (added_adapter, "k_proj.weight has an adapter, which"),
        (put(f"{LM}lm_head.weight", torch.ones(96, 32)), "embedding and head differ"),
        (
            put(f"{LM}model.embed_tokens.weight", torch.ones(96, 32)),
            r"two tensors mean embed_tokens\.weight",
        ),
        (
            put(f"{LM}model.layers.2.input_layernorm.weight", torch.ones(32)),
            "2 layers in llm, the weights have 3",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path, change: Callable[[State], None], why: str
) -> None:
    with pytest.raises(CheckpointError, match=why) as told:
        read_salm(rewrite(folder, change))

    assert str(folder) in str(told.value)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prompt_format": "llama3"}, "prompt_format is 'llama3'"),
        ({"perception": None}, "not a Canary-Qwen configuration"),
        ({"perception__output_dim": 48}, "different widths"),
        ({"perception__encoder__feat_in": 80}, "different widths"),
        ({"perception__encoder__n_layers": 3}, "3 layers in perception.encoder"),
        ({"perception__encoder__n_layers": 10**12}, "layers in perception.encoder"),
        ({"perception__encoder__n_heads": 0}, "makes no sense: n_heads"),
        ({"perception__encoder__n_heads": 3}, "heads do not divide"),
        ({"perception__encoder__d_model": 10**30}, "makes no sense"),
        ({"perception__encoder__subsampling_factor": -8}, "makes no sense"),
        ({"perception__preprocessor__n_fft": 2**40}, "makes no sense: n_fft"),
        ({"perception__preprocessor__n_fft": 2**20}, "mel bins of 1048576"),
        ({"perception__preprocessor__pad_to": 2**40}, "pad_to"),
        ({"perception__preprocessor__window_size": 1e300}, "window"),
        ({"perception__preprocessor__window_size": float("inf")}, "OverflowError"),
        ({"lora__r": 8}, "rank is 8"),
        ({"lora": None}, "rank is 0"),
        ({"lora__lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora__use_rslora": True}, "adapters with use_rslora are not supported"),
        ({"lora__use_dora": True}, "use_dora"),
        ({"lora__rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"lora__alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"lora__bias": "lora_only"}, "bias"),
        ({"lora__modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora__layers_to_transform": [0]}, "layers_to_transform"),
        ({"lora__target_modules": "all-linear"}, "the pattern 'all-linear'"),
        ({"lora__target_modules": ["q_proj"]}, "v_proj.weight has an adapter, which"),
        ({"lora__target_modules": ["q_proj", "k_proj", "v_proj"]}, "2 adapters are missing"),
    ],
)
def test_configuration_that_makes_no_sense_is_refused(
    folder: Path, changes: dict[str, Any], why: str
) -> None:
    edit(folder / "config.json", **changes)

    with pytest.raises(CheckpointError, match=why):
        read_salm(folder)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_hidden_layers": 10**12}, "layers in llm"),
        ({"num_key_value_heads": 3}, "heads do not divide"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"head_dim": 15}, "heads do not divide"),
        ({"vocab_size": 2**60}, "vocab_size"),
        ({"vocab_size": 50}, "tokens, the network has 50"),
        ({"vocab_size": 100}, r"embed_tokens.weight float32 \[96, 32\]"),
        ({"intermediate_size": 63}, "of another shape"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"tie_word_embeddings": False}, r"1 missing: lm_head\.weight"),
        ({"hidden_size": "wide"}, "not a Qwen3 configuration"),
        ({"hidden_size": float("inf")}, "not a Qwen3 configuration"),
        ({"rope_parameters": [1]}, "not a Qwen3 configuration"),
    ],
)
def test_language_model_of_another_kind_or_size_is_refused(
    folder: Path, changes: dict[str, Any], why: str
) -> None:
    edit(folder / "llm_backbone" / "config.json", **changes)

    with pytest.raises(CheckpointError, match=why):
        read_salm(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "llm_backbone/config.json", "llm_backbone/tokenizer.json"],
)
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xfe{", b"[" * 100_000])
def test_missing_or_senseless_file_is_a_checkpoint_error(
    folder: Path, name: str, content: bytes | None
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)

    with pytest.raises(NemoLiteError) as told:
        read_salm(folder, fetch=lambda repo: folder / "llm_backbone")
    assert str(folder) in str(told.value)


def test_folder_that_is_not_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        read_salm(tmp_path / "nowhere")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_file_is_read_or_refused_but_nothing_else(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path_factory.mktemp("damaged") / "salm"))
    names = ["config.json", "model.safetensors", "llm_backbone/config.json"]
    names += ["llm_backbone/tokenizer.json", "llm_backbone/tokenizer_config.json"]
    path = folder / data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    # Most of a safetensors file is numbers that may be anything; the header is what can break.
    at = data.draw(st.integers(0, min(len(content), 20_000) - 1))
    harm = data.draw(st.binary(max_size=12))
    content[at : at + data.draw(st.integers(0, 12))] = harm
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(content)

    try:
        network = float32(read_salm(folder, fetch=lambda repo: folder / "llm_backbone"))
    except CheckpointError:
        return
    assert isinstance(network, SalmNetwork)
