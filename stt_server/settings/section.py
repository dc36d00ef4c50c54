"""What every section of the settings is."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"limits.drain_s": 1}` → `{"limits": {"drain_s": 1}}`."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        section, dot, name = path.partition(".")
        if dot:
            nested.setdefault(section, {})[name] = value
        else:
            nested[path] = value
    return nested
