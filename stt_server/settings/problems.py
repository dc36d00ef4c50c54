"""What is wrong with settings, in lines for people. Values are not repeated: some are secrets."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from stt_server.settings.variables import given, nearest, paths, variable


def problems(
    error: ValidationError, settings: type[BaseModel], aliases: Mapping[str, str]
) -> list[str]:
    """A line for each thing wrong.

    Args:
        aliases: Paths of settings that another server's variables set, with these.
    """
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        names = [name for name in (given(path), aliases.get(path)) if name]
        also = f" (or {', '.join(names)})" if names else ""
        what = f"setting {path}{also}: " if path else ""
        lines.append(f"{what}{_said(problem, path, settings)}")
    return lines


def _said(problem: Mapping[str, Any], path: str, settings: type[BaseModel]) -> str:
    if problem["type"] == "tuple_type":
        return "a list is needed; leave it out for none"
    if problem["type"] != "extra_forbidden":
        return problem["msg"]
    is_section = isinstance(problem["input"], dict)
    known = list(paths(settings))
    if is_section:
        known = sorted({path.partition(".")[0] for path in known if "." in path})
    meant = nearest(path, known)
    if meant is None:
        return "there is no such setting"
    shown = variable(meant) if given(path) and not is_section else meant
    return f"there is no such setting; did you mean {shown}?"
