"""The public names."""

import subprocess
import sys
from importlib import import_module

import pytest

import stt_server

PUBLIC = [
    "AudioFrame",
    "Client",
    "ClientOptions",
    "Settings",
    "TranscriptionSegment",
    "__version__",
    "create_app",
]


def test_public_names_are_these() -> None:
    assert stt_server.__all__ == PUBLIC


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("AudioFrame", "stt_server.protocols.native_messages"),
        ("Client", "stt_server.clients.client"),
        ("ClientOptions", "stt_server.clients.options"),
        ("Settings", "stt_server.settings"),
        ("TranscriptionSegment", "stt_server.protocols.native_messages"),
        ("create_app", "stt_server.app"),
    ],
)
def test_public_name_is_that_of_its_home(name: str, home: str) -> None:
    assert getattr(stt_server, name) is getattr(import_module(home), name)


def test_star_import_gives_every_public_name() -> None:
    code = f"from stt_server import *\nprint(*[name for name in {PUBLIC} if name in globals()])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.split() == PUBLIC


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        stt_server.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_a_version() -> None:
    assert stt_server.__version__.split(".")[0].isdigit()
