"""What several tests of downloads share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_lite.tests.fake_hub import ARCHIVE, FakeHub, running


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one checkpoint, reached directly on machines with a proxy, too."""
    monkeypatch.setenv("no_proxy", "*")
    with running(FakeHub(files={"tiny.nemo": ARCHIVE, "README.md": b"read me"})) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for checkpoints, which is not there yet."""
    return tmp_path / "cache"
