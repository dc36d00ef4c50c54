"""`.nemo` archives: NeMo's own, damaged ones, hostile ones."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_lite import load
from nemo_lite.checkpoints import load_strictly, read_checkpoint
from nemo_lite.checkpoints.tests.archives import (
    CONFIG_NAME,
    TOKENIZER_NAME,
    VOCABULARY,
    WEIGHTS_NAME,
    gzipped,
    nemo_config,
    parts,
    random_state,
    saved,
    write_nemo,
)
from nemo_lite.config import ModelConfig
from nemo_lite.errors import CheckpointError
from nemo_lite.network import Network
from nemo_lite.tests.goldens import GOLDENS, SHARED, case_names, needs_goldens, needs_models
from nemo_lite.tokenizer import Tokenizer


def empty_network(config: ModelConfig) -> Network:
    with torch.device("meta"):
        return Network(config)


def header(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@needs_goldens
@pytest.mark.parametrize("name", case_names("nemo_files"))
def test_nemos_own_archives_are_read_whole(name: str) -> None:
    expected = json.loads((GOLDENS / "nemo_files" / f"{name}.json").read_text())["expected"]
    checkpoint = read_checkpoint(GOLDENS / "nemo_files" / f"{name}.nemo")
    shapes = {key: list(tensor.shape) for key, tensor in checkpoint.state.items()}
    assert shapes == expected["state_dict"]
    assert list(checkpoint.tokenizer.pieces) == expected["pieces"]
    assert checkpoint.config.vocabulary_size == expected["vocabulary_size"]
    lookaheads = [entry["att_context_size"][1] for entry in expected["lookaheads"]]
    assert [context.right for context in checkpoint.config.encoder.contexts] == lookaheads
    assert checkpoint.target.startswith("EncDec")
    load_strictly(empty_network(checkpoint.config), checkpoint.state, source=name)


@needs_models
def test_digits_archive_is_read_whole() -> None:
    checkpoint = read_checkpoint(SHARED / "models" / "digits-streaming.nemo")
    expected = json.loads((SHARED / "models" / "digits-expected.json").read_text())
    assert list(checkpoint.tokenizer.pieces) == expected["pieces"]
    assert checkpoint.config.ctc
    load_strictly(empty_network(checkpoint.config), checkpoint.state, source="digits")


@needs_goldens
@pytest.mark.parametrize("path", ["multitalker/multitalker.nemo", "sortformer/streaming_4spk.nemo"])
def test_other_families_are_refused(path: str) -> None:
    with pytest.raises(CheckpointError):  # noqa: PT012 - either step may notice
        checkpoint = read_checkpoint(GOLDENS / path)
        load_strictly(empty_network(checkpoint.config), checkpoint.state, source=path)


@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_spelling_of_an_archive_gives_the_same(
    tmp_path: Path, prefix: str, packed: bool
) -> None:
    path = write_nemo(tmp_path / "model.nemo", prefix=prefix)
    checkpoint = read_checkpoint(gzipped(path) if packed else path)
    state = random_state(nemo_config())
    assert checkpoint.config == ModelConfig.from_nemo(nemo_config())
    assert checkpoint.state.keys() == state.keys()
    assert all(torch.equal(checkpoint.state[name], state[name]) for name in state)
    assert checkpoint.tokenizer.size == VOCABULARY
    assert checkpoint.source == path
    assert checkpoint.target == "EncDecRNNTBPEModel"


def test_archive_alone_in_a_folder_is_read(tmp_path: Path) -> None:
    write_nemo(tmp_path / "model.nemo")
    assert read_checkpoint(str(tmp_path)).tokenizer.size == VOCABULARY
    write_nemo(tmp_path / "another.nemo")
    with pytest.raises(CheckpointError, match="exactly one"):
        read_checkpoint(tmp_path)


def test_reading_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    plain = write_nemo(tmp_path / "plain.nemo")
    packed = gzipped(write_nemo(tmp_path / "packed.nemo"))
    before = sorted(tmp_path.rglob("*"))
    read_checkpoint(plain)
    read_checkpoint(packed)
    assert sorted(tmp_path.rglob("*")) == before


def test_narrow_weights_keep_their_dtype(tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in random_state(nemo_config()).items()}
    path = write_nemo(tmp_path / "model.nemo", parts() | {WEIGHTS_NAME: saved(state)})
    checkpoint = read_checkpoint(path)
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.bfloat16}
    network = empty_network(checkpoint.config)
    load_strictly(network, checkpoint.state, source="narrow")
    assert network.encoder.pre_encode.out.weight.dtype == torch.bfloat16


def test_training_leftovers_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    state = random_state(nemo_config())
    noise = {
        "spec_augmentation.freq_mask.weight": torch.zeros(1),
        "loss._loss.weight": torch.zeros(1),
        "encoder.layers.0.conv.batch_norm.num_batches_tracked": torch.tensor(3),
    }
    members = parts() | {WEIGHTS_NAME: saved(state | noise | {"adapter.weight": torch.zeros(1)})}
    checkpoint = read_checkpoint(write_nemo(tmp_path / "model.nemo", members))
    assert checkpoint.state.keys() == state.keys() | {"adapter.weight"}
    with pytest.raises(CheckpointError, match=r"1 unexpected: adapter\.weight"):
        load_strictly(empty_network(checkpoint.config), checkpoint.state, source="model")


def test_joint_trained_without_dropout_fits_the_network(tmp_path: Path) -> None:
    state = random_state(nemo_config())
    renamed = {name.replace("joint_net.2.", "joint_net.1."): state[name] for name in state}
    assert renamed.keys() != state.keys()
    members = parts() | {WEIGHTS_NAME: saved(renamed)}
    checkpoint = read_checkpoint(write_nemo(tmp_path / "model.nemo", members))
    load_strictly(empty_network(checkpoint.config), checkpoint.state, source="model")


def test_given_tokenizer_replaces_the_archives(tmp_path: Path) -> None:
    path = write_nemo(tmp_path / "model.nemo", parts() | {TOKENIZER_NAME: b"damaged"})
    tokenizer = Tokenizer.from_pieces([f"▁{number}" for number in range(VOCABULARY)])
    assert read_checkpoint(path, tokenizer=tokenizer).tokenizer is tokenizer
    short = Tokenizer.from_pieces(["a", "b"])
    with pytest.raises(CheckpointError, match="2 pieces, the network 40"):
        read_checkpoint(path, tokenizer=short)


def test_language_prompts_are_read(tmp_path: Path) -> None:
    defaults = {"num_prompts": 6, "prompt_dictionary": {"en-US": 0, False: 2, "auto": 5}}
    config = nemo_config(model_defaults=defaults)
    checkpoint = read_checkpoint(write_nemo(tmp_path / "model.nemo", parts(config)))
    assert checkpoint.config.prompt is not None
    assert dict(checkpoint.config.prompt.languages) == {"en-US": 0, "no": 2, "auto": 5}
    assert checkpoint.state["prompt_kernel.0.weight"].shape == (32, 22)
    load_strictly(empty_network(checkpoint.config), checkpoint.state, source="model")
    defaults["prompt_dictionary"] = {"en-US": 6}
    path = write_nemo(tmp_path / "model.nemo", parts(nemo_config(model_defaults=defaults)))
    with pytest.raises(CheckpointError, match="'en-US' has prompt 6"):
        read_checkpoint(path)


HOSTILE_HEADERS = {
    "parent": (header("../model_config.yaml"), "leads out"),
    "deep parent": (header("a/../../x"), "leads out"),
    "absolute": (header("/tmp/x"), "leads out"),
    "symbolic link": (header("x", tarfile.SYMTYPE, "/etc/passwd"), "neither a plain file"),
    "hard link": (header("x", tarfile.LNKTYPE, "./model_config.yaml"), "neither a plain file"),
    "device": (header("x", tarfile.CHRTYPE), "neither a plain file"),
    "fifo": (header("x", tarfile.FIFOTYPE), "neither a plain file"),
    "twice": (header("./model_config.yaml"), "twice"),
}


@pytest.mark.parametrize("case", HOSTILE_HEADERS)
def test_hostile_member_is_refused(tmp_path: Path, case: str) -> None:
    extra, message = HOSTILE_HEADERS[case]
    path = write_nemo(tmp_path / "model.nemo", extra=[extra])
    with pytest.raises(CheckpointError, match=f"model.nemo: .*{message}"):
        read_checkpoint(path)


def test_member_that_claims_more_than_the_file_is_refused(tmp_path: Path) -> None:
    huge = header("./x")
    huge.size = 2**40
    path = tmp_path / "model.nemo"
    path.write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(CheckpointError, match=r"truncated|damaged"):
        read_checkpoint(path)


def test_sparse_member_is_refused(tmp_path: Path) -> None:
    sparse = header("./x")
    sparse.size = 512
    sparse.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(2**40),
    }
    path = tmp_path / "model.nemo"
    path.write_bytes(sparse.tobuf(tarfile.PAX_FORMAT) + bytes(512 + 1024))
    with pytest.raises(CheckpointError, match="neither a plain file"):
        read_checkpoint(path)


def test_archive_of_countless_files_is_refused(tmp_path: Path) -> None:
    path = write_nemo(tmp_path / "model.nemo", extra=[header(f"{n}") for n in range(1_001)])
    with pytest.raises(CheckpointError, match="more than 1000 files"):
        read_checkpoint(path)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_the_weights_does_not_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "was here"
    payload = {"encoder.x": Payload(trace)}
    weights = saved(payload) if zipped else pickle.dumps(payload)
    path = write_nemo(tmp_path / "model.nemo", parts() | {WEIGHTS_NAME: weights})
    with pytest.raises(CheckpointError, match="more than tensors" if zipped else "no.* zip file"):
        read_checkpoint(path)
    assert not trace.exists()


def test_code_in_the_configuration_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "was here"
    config = f"x: !!python/object/apply:os.mkdir ['{trace}']"
    path = write_nemo(tmp_path / "model.nemo", parts() | {CONFIG_NAME: config.encode()})
    with pytest.raises(CheckpointError, match=r"model_config\.yaml is no plain YAML"):
        read_checkpoint(path)
    assert not trace.exists()


def compressed(archive: bytes) -> bytes:
    """The same zip archive with its records deflated."""
    result = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as source,
        zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return result.getvalue()


def swapped(archive: bytes) -> bytes:
    """The same zip archive, said to be of a machine with the other byte order."""
    return archive.replace(b"little", b"bigend")


def expanded() -> torch.Tensor:
    """A terabyte that takes four bytes in the file."""
    return torch.zeros(1).expand(2**38)


WEIGHTS = {
    "compressed": (lambda: compressed(saved(random_state(nemo_config()))), "compressed records"),
    "empty": (lambda: b"", "cannot be loaded"),
    "text": (lambda: b"hello" * 100, "cannot be loaded"),
    "truncated": (lambda: saved(random_state(nemo_config()))[:-1_000], "cannot be loaded"),
    "a list": (lambda: saved([torch.zeros(2)]), "not named tensors"),
    "numbers": (lambda: saved({"encoder.x": 1.0}), "no plain tensor"),
    "nested": (lambda: saved({"state_dict": {"a": torch.zeros(1)}}), "no plain tensor"),
    "expanded": (lambda: saved({"encoder.x": expanded()}), "no plain tensor"),
    "sparse": (lambda: saved({"encoder.x": torch.zeros(3, 3).to_sparse()}), "no plain tensor"),
    "without memory": (lambda: saved({"x": torch.zeros(3, device="meta")}), "no plain tensor"),
    "swapped": (lambda: swapped(saved({"x": torch.zeros(3)})), "cannot be loaded"),
    "cut storage": (
        lambda: saved({"x": torch.zeros(3)}).replace(b"data/0", b"data/9"),
        "cannot be loaded",
    ),
    "before zip": (
        lambda: saved(random_state(nemo_config()), _use_new_zipfile_serialization=False),
        "cannot be loaded",
    ),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("case", WEIGHTS)
def test_unusable_weights_are_refused(tmp_path: Path, case: str) -> None:
    data, message = WEIGHTS[case]
    path = write_nemo(tmp_path / "model.nemo", parts() | {WEIGHTS_NAME: data()})
    with pytest.raises(CheckpointError, match=f"model.nemo: .*{message}"):
        read_checkpoint(path)


CONFIGS = {
    "empty": (b"", "holds a NoneType"),
    "a list": (b"- 1\n- 2", "holds a list"),
    "not utf-8": (b"target: \xff\xfe", "no plain YAML"),
    "aliases": (b"a: &a [x, x]\nb: [*a, *a]", "aliases"),
    "merged aliases": (b"a: &a {x: 1}\nb: {<<: [*a, *a]}", "aliases"),
    "deep": (b"[" * 1_000_000, "nested deeper"),
    "deep blocks": (b"- " * 1_000_000, "nested deeper"),
    "long number": (b"a: " + b"1" * 100_000, "value of 100000 characters"),
    "unhashable key": (b"? [a]\n: b", "no plain YAML"),
    "endless sexagesimal": (b"a: " + b":".join([b"59"] * 300) + b".5", "no plain YAML"),
    "broken": (b"a: [", "no plain YAML"),
    "another model": (b"encoder: {}", "not a FastConformer's"),
    "infinite": (
        yaml.safe_dump(
            nemo_config(encoder=nemo_config()["encoder"] | {"d_model": float("inf")})
        ).encode(),
        "not a FastConformer's",
    ),
    "other layers": (
        yaml.safe_dump(
            nemo_config(encoder=nemo_config()["encoder"] | {"n_layers": 10**9})
        ).encode(),
        "1000000000 encoder layers, the weights have 2",
    ),
    "too large": (b"a: b\n" * 2**22, "larger than"),
    "no tokenizer": (yaml.safe_dump(nemo_config(tokenizer={})).encode(), "names no SentencePiece"),
    "absent tokenizer": (
        yaml.safe_dump(nemo_config(tokenizer={"model_path": "nemo:other.model"})).encode(),
        "no other.model in the archive",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_unusable_configuration_is_refused(tmp_path: Path, case: str) -> None:
    config, message = CONFIGS[case]
    path = write_nemo(tmp_path / "model.nemo", parts() | {CONFIG_NAME: config})
    with pytest.raises(CheckpointError, match=f"model.nemo: .*{message}"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", [CONFIG_NAME, WEIGHTS_NAME, TOKENIZER_NAME])
def test_missing_member_is_named(tmp_path: Path, name: str) -> None:
    members = {key: data for key, data in parts().items() if key != name}
    with pytest.raises(CheckpointError, match=f"no {name} in the archive"):
        read_checkpoint(write_nemo(tmp_path / "model.nemo", members))


@pytest.mark.parametrize(
    "data",
    [b"", b"just a text", bytes(10_240), b"PK\x03\x04" + bytes(100), b"\x1f\x8b\x08 no gzip"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.nemo"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.nemo: "):
        read_checkpoint(path)


def test_missing_and_unreadable_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.nemo: no such file or folder"):
        read_checkpoint(tmp_path / "absent.nemo")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        read_checkpoint(tmp_path)


def test_gzip_that_would_fill_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nemo_lite.checkpoints.nemo_archive._EXPANSION_SLACK", 0)
    path = tmp_path / "model.nemo"
    path.write_bytes(bytes(10_000_000))
    with pytest.raises(CheckpointError, match="absurd size"):
        read_checkpoint(gzipped(path))


@cache
def sound_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_nemo(Path(folder) / "model.nemo").read_bytes()


@given(data=st.data())
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damage_never_gives_another_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sound_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    # Headers, the configuration and the pickle are where damage matters; they are at the start.
    reach = min(len(content), 16_384) - 1
    for _ in range(data.draw(st.integers(0, 4)) if reach > 0 else 0):
        at = data.draw(st.integers(0, reach) | st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.nemo"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        checkpoint = read_checkpoint(path)
        load_strictly(empty_network(checkpoint.config), checkpoint.state, source="model")


PEAK = """
import sys, torch
from nemo_lite import load

def memory(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024

load(sys.argv[2])  # whatever is imported on the way
before = memory("VmRSS:")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the highest size counts from here
model = load(sys.argv[1], dtype=sys.argv[3])
size = sum(tensor.nbytes for tensor in model._network.state_dict().values())
print((memory("VmHWM:") - before) / size, size)
"""


def test_models_do_not_depend_on_their_file(tmp_path: Path) -> None:
    path = write_nemo(tmp_path / "model.nemo", parts())
    model = load(path)
    before = {name: tensor.clone() for name, tensor in model._network.state_dict().items()}
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    after = model._network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' accounting")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_takes_little_more_memory_than_the_model(tmp_path: Path, dtype: str) -> None:
    config = nemo_config(encoder=nemo_config()["encoder"] | {"d_model": 1_024, "n_layers": 6})
    config["joint"]["jointnet"]["encoder_hidden"] = 1_024
    path = write_nemo(tmp_path / "model.nemo", parts(config))
    small = write_nemo(tmp_path / "small.nemo", parts())
    result = subprocess.run(
        [sys.executable, "-c", PEAK, str(path), str(small), dtype],
        capture_output=True,
        text=True,
        check=True,
    )
    ratio, size = map(float, result.stdout.split())
    assert size > 100e6
    assert ratio < 1.2
