"""The benchmark of files, as small as it gets."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rest import measure
from server_process import running_server

OFF = ("--parakeet-port", "0", "--parakeet-status-port", "0")


def test_everything_is_measured_and_told() -> None:
    arguments = argparse.Namespace(
        minutes=0.2, audio=None, live=2, seconds=3.0, uploads=3, clip_s=6.0
    )
    with running_server("--model", "scripted", *OFF) as server:
        text = measure(server, arguments)

    assert "s of audio per second" in text
    assert "| alone |" in text
    assert "| beside uploads |" in text
    assert "200:" in text
    assert "nan" not in text
