"""What every benchmark shares: naming the machine and writing its section of a document."""

import os
import platform
import re
from pathlib import Path

NOTABLE_FLAGS = ("avx2", "avx512_vnni", "avx512_bf16", "amx_int8")


def machine() -> str:
    """The processor, its logical cores and those of its flags that decide speed here."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set[str]()
    parts = [
        model[1] if model else platform.processor() or platform.machine(),
        f"{os.cpu_count()} cores",
        *(flag for flag in NOTABLE_FLAGS if flag in present),
    ]
    return ", ".join(parts)


def write_section(path: Path, name: str, markdown: str) -> None:
    """Replace what stands between the markers `<!-- name:begin -->` and `<!-- name:end -->`.

    A missing file or section is created, the section at the end.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    section = f"{begin}\n{markdown.strip()}\n{end}"
    text = path.read_text(encoding="utf-8") if path.exists() else "# Benchmarks\n"
    before, found, rest = text.partition(begin)
    if found:
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(f"{path}: {begin} without {end}")
        text = before + section + after
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
