"""Time and peak memory of `nemo_lite.load` on a full-size `.nemo` file (Linux).

    python benchmarks/load_model.py [--model nemotron-en] [--write docs/benchmarks.md]

The weights are random. Everything is measured in fresh processes with the file in the page cache;
memory is the highest resident size during the load less what the interpreter and the imported
libraries had before.
"""

import argparse
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from report import machine, write_section

DTYPES = ("float32", "bfloat16", "int8")
MIB = 2**20
BLOCK_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Row:
    """One way to load."""

    dtype: str
    seconds: float
    peak_mib: float


def write_nemo(name: str, path: Path) -> int:
    """Write a `.nemo` of one of the `full_size.CONFIGS`; gives the bytes of its weights."""
    import torch
    import yaml
    from full_size import CONFIGS, random_network

    config = {
        **CONFIGS[name],
        "target": "nemo.collections.asr.models.EncDecRNNTBPEModel",
        "tokenizer": {"type": "bpe", "model_path": "nemo:tokenizer.model"},
    }
    state = random_network(name).state_dict()
    with tarfile.open(path, "w") as archive, tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model_weights.ckpt"
        torch.save(state, weights)
        tokenizer = tokenizer_model(config["decoder"]["vocab_size"])
        for member, content in (
            ("model_config.yaml", yaml.safe_dump(config).encode()),
            ("tokenizer.model", tokenizer),
        ):
            info = tarfile.TarInfo(f"./{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        archive.add(weights, "./model_weights.ckpt")
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def tokenizer_model(size: int) -> bytes:
    """A SentencePiece model with exactly so many pieces, trained on words without meaning."""
    import sentencepiece

    syllables = [first + second for first in "bdfklmnprst" for second in "aeiou"]
    chooser = random.Random(0)
    words = ["".join(chooser.choices(syllables, k=chooser.randint(1, 4))) for _ in range(30 * size)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(words[at : at + 20]) for at in range(0, len(words), 20)),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def read_seconds(path: Path, *, keep: bool) -> float:
    """Seconds to read a file from beginning to end in this process, and keep it all or not."""
    size = path.stat().st_size
    buffer, at = memoryview(bytearray(size if keep else BLOCK_BYTES)), 0
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer[at : at + BLOCK_BYTES]):
            at += count if keep else 0
    return time.perf_counter() - began


def load_row(path: Path, dtype: str) -> Row:
    """Load in this process, which should have done nothing else.

    Raises:
        UnsupportedError: the dtype does not exist here.
    """
    from nemo_lite import load

    before = _resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest size counts from here
    began = time.perf_counter()
    model = load(path, dtype=dtype)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    assert model.lookaheads
    return Row(dtype, seconds, _resident_mib("VmHWM") - before)


def _resident_mib(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1_024


def _child(*arguments: str) -> dict[str, float | str]:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds to read a file, as `cat` does into one small buffer, and into memory of its size."""

    cat: float
    keep: float


def measure(
    path: Path, repeats: int, dtypes: Sequence[str] = DTYPES
) -> tuple[Reading, list[Row], list[str]]:
    """The file itself, a row per dtype, and what could not be measured."""
    read_seconds(path, keep=False)  # into the page cache
    found = [_child("--read", str(path)) for _ in range(repeats)]
    read = Reading(*(median(float(row[key]) for row in found) for key in ("cat", "keep")))
    rows: list[Row] = []
    missing: list[str] = []
    for dtype in dtypes:
        found = [_child("--load", str(path), "--dtype", dtype) for _ in range(repeats)]
        if "missing" in found[0]:
            missing.append(f"{dtype}: {found[0]['missing']}")
            continue
        seconds = median(float(row["seconds"]) for row in found)
        rows.append(Row(dtype, seconds, max(float(row["peak_mib"]) for row in found)))
    return read, rows, missing


def table(model_bytes: int, read: Reading, rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        f"The file's float32 weights are {model_bytes / MIB:,.0f} MiB. Reading it takes "
        f"{read.cat:.2f} s as `cat` does, {read.keep:.2f} s into memory that keeps it.",
        "",
        "| dtype | load s | × cat | × reading | peak MiB | × weights |",
        "| :--- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.dtype} | {row.seconds:.2f} | {row.seconds / read.cat:.1f} "
        f"| {row.seconds / read.keep:.1f} | {row.peak_mib:,.0f} "
        f"| {row.peak_mib * MIB / model_bytes:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the table if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nemotron-en", help="a key of full_size.CONFIGS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        seconds = {key: read_seconds(arguments.read, keep=key == "keep") for key in ("cat", "keep")}
        print(json.dumps(seconds))
        return
    if arguments.load:
        print(json.dumps(_loaded(arguments.load, arguments.dtype)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.nemo"
        model_bytes = write_nemo(arguments.model, path)
        read, rows, missing = measure(path, arguments.repeats)
    notes = "".join(f"\n\nNot measured: {note}." for note in missing)
    text = (
        f"## Loading {arguments.model} (`load_model`)\n\n{machine()}\n\n"
        f"{table(model_bytes, read, rows)}{notes}"
    )
    print(text)
    if arguments.write:
        write_section(arguments.write, f"load_model {arguments.model}", text)


def _loaded(path: Path, dtype: str) -> dict[str, float | str]:
    from nemo_lite import UnsupportedError

    try:
        row = load_row(path, dtype)
    except UnsupportedError as error:
        return {"missing": str(error)}
    return {"seconds": row.seconds, "peak_mib": row.peak_mib}


if __name__ == "__main__":
    main()
