"""`STT_*` variables: how their text becomes values, and which setting a mistyped one means."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

PREFIX = "STT_"
ALIKE = 0.65
"""Less alike names are not suggested."""


class VariableSource(EnvSettingsSource):
    """Lists may be plain text with commas, and what cannot be read is told with its variable."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._section = ""

    def __call__(self) -> dict[str, Any]:
        """
        Raises:
            ValueError: a variable cannot be read.
        """
        try:
            return super().__call__()
        except SettingsError as error:
            raise ValueError(str(error.__cause__ or error)) from error

    def prepare_field_value(
        self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool
    ) -> Any:
        self._section = field_name
        return super().prepare_field_value(field_name, field, value, value_is_complex)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        is_list = get_origin(field.annotation) is tuple
        if is_list and not value.lstrip().startswith("["):
            return [item.strip() for item in value.split(",")]
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError as error:
            section = self._section
            path = field_name if field_name == section else f"{section}.{field_name}"
            wrong = (
                "begins like a JSON list and is none"
                if is_list
                else f"no JSON object; {variable(section)}__* set one setting each"
            )
            # Without its text, which may be a secret.
            raise ValueError(f"{variable(path)}: {wrong} ({error})") from error


def variable(path: str) -> str:
    """`limits.drain_s` → `STT_LIMITS__DRAIN_S`."""
    return PREFIX + path.upper().replace(".", "__")


def paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Of all settings in a section and those within."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from paths(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def nearest(name: str, known: list[str]) -> str | None:
    """The path that a mistyped one, or the variable of one, means; None if none is alike."""
    wanted = _plain(name.upper().removeprefix(PREFIX))
    plain = {_plain(path): path for path in known}
    tails: dict[str, list[str]] = {}
    for path in known:
        tails.setdefault(_plain(path.rpartition(".")[2]), []).append(path)
    # Without its section a name says enough where only one section has it.
    plain = {tail: found[0] for tail, found in tails.items() if len(found) == 1} | plain
    meant = get_close_matches(wanted, plain, n=1, cutoff=ALIKE)
    return plain[meant[0]] if meant else None


def given(path: str) -> str | None:
    """The variable that sets `path`, as it is written in the environment; None if none does."""
    return next((name for name in os.environ if name.upper() == variable(path)), None)  # noqa: TID251


def unknown(names: Mapping[str, str], settings: type[BaseModel]) -> dict[str, str | None]:
    """`STT_*` variables that set nothing, each with the one that was perhaps meant.

    Not those within a section: they are errors.
    """
    known = list(paths(settings))
    variables = {variable(path) for path in known}
    sections = {variable(path.partition(".")[0]) for path in known if "." in path}
    found: dict[str, str | None] = {}
    for name in sorted(name.upper() for name in names):
        section = name.partition("__")[0]
        if name.startswith(PREFIX) and name not in variables and section not in sections:
            meant = nearest(name, known)
            found[name] = meant and variable(meant)
    return found


def _plain(name: str) -> str:
    return name.lower().replace(".", "_").replace("-", "_").replace("__", "_")
