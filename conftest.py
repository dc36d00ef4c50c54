"""What every test folder shares."""

import pytest
from hypothesis import settings

# Other programs share the machine: how long an example took says nothing about the code.
settings.register_profile("stt", deadline=None)
settings.load_profile("stt")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"
