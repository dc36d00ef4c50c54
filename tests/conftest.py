"""One server for all tests that need nothing special of it."""

from collections.abc import Iterator

import pytest

from tests.server import ServerProcess, run_server


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server with the scripted engine and default settings."""
    with run_server() as process:
        yield process
