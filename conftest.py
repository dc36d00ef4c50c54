"""What every test folder shares."""

import signal

import pytest
from hypothesis import settings

# Other programs share the machine: how long an example took says nothing about the code.
settings.register_profile("stt", deadline=None)
settings.load_profile("stt")


# A shell that runs the tests in the background has them ignore Ctrl-C, and so would the programs
# that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"
