"""Writes the tables of settings from the fields of `Settings`: `docs/settings.md` and the short
one in the README. `--check` only compares.

    python docs/settings_table.py [--check]
"""

import argparse
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stt_server.settings import Settings

TARGET = Path(__file__).parent / "settings.md"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"
SHORT = {
    "--host",
    "--port",
    "--model",
    "--final-model",
    "--device",
    "--endpointing-silence-ms",
    "--endpointing-onset",
    "--limits-max-sessions",
    "--auth-api-keys",
    "--auth-allowed-origins",
    "--log-format",
    "--log-transcripts",
}
HEAD = """\
# Settings

Generated from the fields of `stt_server/settings/` by `make docs`; do not edit.

Flags win over environment variables, these over the TOML file given with `--config`, that over
the defaults. An unknown key is an error. Lists are text with commas or JSON in the environment
(`STT_AUTH__API_KEYS=one,two`, `STT_AUTH__API_KEYS='["one, with a comma"]'`), repeated flags on the
command line and arrays in the file. Sections are tables in the file: `[endpointing]`, then
`silence_ms = 700`.
"""


def rows(model: type[BaseModel], prefix: str = "") -> list[str]:
    """One table row per field, nested sections after the plain fields."""
    out: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            summary = (kind.__doc__ or "").splitlines()[0]
            out += ["", f"## `{name}`", "", summary, "", *_head(), *rows(kind, f"{name}.")]
        else:
            out.append(_row(prefix + name, field))
    return out


def _head() -> list[str]:
    return ["| flag | environment | default | meaning |", "| --- | --- | --- | --- |"]


def _row(path: str, field: FieldInfo) -> str:
    flag = "--" + path.replace(".", "-").replace("_", "-")
    variable = "STT_" + path.replace(".", "__").upper()
    default = "" if field.default in (None, ()) else f"`{field.default}`"
    meaning = field.description or ""
    choices = _choices(field.annotation)
    if choices:
        meaning += f" One of {choices}."
    bounds = _bounds(field)
    if bounds:
        meaning += f" ({bounds})"
    return f"| `{flag}` | `{variable}` | {default} | {meaning} |"


def _choices(annotation: Any) -> str:
    kinds = get_args(annotation) if get_origin(annotation) else (annotation,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return ", ".join(f"`{item.value}`" for item in kind)
    return ""


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join(found)


def short_table() -> str:
    """The settings most users touch."""
    wanted = [row for row in rows(Settings) if row.startswith("| `") and row.split("`")[1] in SHORT]
    return "\n".join([*_head(), *wanted])


def documents() -> dict[Path, str]:
    """What each file should hold."""
    readme = README.read_text(encoding="utf-8")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return {
        TARGET: "\n".join([HEAD, *_head(), *rows(Settings)]) + "\n",
        README: f"{before}{BEGIN}\n{short_table()}\n{END}{after}",
    }


def main() -> int:
    """Write the tables, or say that they are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for path, text in documents().items():
        if arguments.check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                print(f"{path.name} is out of date: run make docs", file=sys.stderr)
                return 1
        else:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
