"""`stt-server`: flags to settings, then serve, or `models` to manage checkpoints.

Exit codes: 0 stopped or done, 1 failed, 2 usage, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from stt_server import __version__
from stt_server.command_line import BriefParser
from stt_server.settings import ModelSettings, Settings, explain, load_settings, nest

DESCRIPTION = "Real-time speech-to-text server for conversational agents."
EPILOG = """\
Every flag is also an environment variable (STT_PORT, STT_ENDPOINTING__SILENCE_MS) and a key of
the TOML file given with --config; flags win over the environment, the environment over the file.

`stt-server models` lists and downloads speech models: see `stt-server models --help`.
"""
MODELS_EPILOG = """\
NAME is a name of the list, or a hub id (owner/name). A download that was stopped goes on when it is
started again. Exit codes: 0 done, 1 a model could not be had, 2 wrong usage, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["models"]:
        return _models(given[1:])
    settings = _settings(vars(_parser().parse_args(given)))
    if settings is None:
        return 2
    from stt_server.serve import serve

    return serve(settings)


def _models(argv: Sequence[str]) -> int:
    arguments = vars(_models_parser().parse_args(argv))
    action, names = arguments.pop("action"), arguments.pop("names", [])
    settings = _settings(arguments)
    if settings is None:
        return 2
    from stt_server import models_command

    return models_command.run(action, names, settings)


def _settings(arguments: dict[str, Any]) -> Settings | None:
    """Settings from parsed flags; None when something is wrong with them, which was told."""
    file = arguments.pop("config")
    try:
        return load_settings(nest(arguments), file=Path(file) if file else None)
    except ValidationError as error:
        for problem in explain(error):
            print(f"stt-server: {problem}", file=sys.stderr)  # noqa: T201
    except (OSError, ValueError) as error:
        print(f"stt-server: {error}", file=sys.stderr)  # noqa: T201
    return None


def _parser() -> argparse.ArgumentParser:
    parser = BriefParser(
        "stt-server",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stt-server {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    _add_flags(parser, Settings, prefix="")
    return parser


def _models_parser() -> argparse.ArgumentParser:
    common = BriefParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name, field in ModelSettings.model_fields.items():
        _add_flag(common, f"models.{name}", field, flag=name)
    parser = BriefParser(
        "stt-server models",
        description="List, download and find speech models.",
        epilog=MODELS_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[common], help="what there is, and what is on this machine")
    for action, told in (
        ("pull", "download models, or go on with it"),
        ("path", "print where downloaded models lie"),
    ):
        actions.add_parser(action, parents=[common], help=told).add_argument(
            "names", nargs="+", metavar="NAME"
        )
    return parser


def _add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,  # pyright: ignore[reportPrivateUsage]
    model: type[BaseModel],
    *,
    prefix: str,
) -> None:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            group = parser.add_argument_group(name, (kind.__doc__ or "").splitlines()[0])
            _add_flags(group, kind, prefix=f"{name}.")
        else:
            _add_flag(parser, prefix + name, field)


def _add_flag(parser: Any, path: str, field: FieldInfo, *, flag: str | None = None) -> None:
    flag = "--" + (flag or path).replace(".", "-").replace("_", "-")
    kind = _bare_type(field.annotation)
    help_text = (field.description or "").replace("%", "%%")
    if field.default is not None and field.default != ():
        help_text += f" [{field.default}]"
    options: dict[str, Any] = {"dest": path, "default": argparse.SUPPRESS, "help": help_text}
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
    elif get_origin(field.annotation) is tuple:
        parser.add_argument(flag, action="append", metavar="VALUE", **options)
    elif isinstance(kind, type) and issubclass(kind, StrEnum):
        parser.add_argument(flag, choices=[item.value for item in kind], **options)
    else:
        metavar = {int: "N", float: "X"}.get(kind, "VALUE") if isinstance(kind, type) else "VALUE"
        parser.add_argument(flag, metavar=metavar, **options)


def _bare_type(annotation: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(annotation) is UnionType:
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation
