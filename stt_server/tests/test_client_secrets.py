"""Short-lived keys: what they open, and for how long."""

import pytest

from stt_server import client_secrets
from stt_server.client_secrets import PREFIX, ClientSecrets, TooManySecrets

SESSION = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def secrets(clock: Clock) -> ClientSecrets:
    return ClientSecrets(clock)


def test_a_secret_stands_for_its_key_and_brings_its_session(secrets: ClientSecrets) -> None:
    value = secrets.mint(3, SESSION, seconds=10)
    other = secrets.mint(4, {}, seconds=10)

    assert value.startswith(PREFIX)
    assert (secrets.requester_of(value), secrets.session_of(value)) == (3, SESSION)
    assert (secrets.requester_of(other), secrets.session_of(other)) == (4, {})


@pytest.mark.parametrize("change", [str.upper, lambda value: value[:-1], lambda value: value + "="])
def test_what_only_looks_like_a_secret_opens_nothing(
    secrets: ClientSecrets, change: object
) -> None:
    value = secrets.mint(0, SESSION, seconds=10)
    assert callable(change)

    assert secrets.requester_of(change(value)) is None
    for nonsense in ("", PREFIX, "schlüssel", "\ud800"):
        assert secrets.requester_of(nonsense) is None
        assert secrets.session_of(nonsense) is None


def test_a_session_cannot_be_changed_by_who_reads_it(secrets: ClientSecrets) -> None:
    value = secrets.mint(0, SESSION, seconds=10)
    found = secrets.session_of(value)
    assert found is not None
    found.clear()

    assert secrets.session_of(value) == SESSION


def test_a_secret_expires(secrets: ClientSecrets, clock: Clock) -> None:
    value = secrets.mint(0, SESSION, seconds=10)
    clock.now += 9.9
    assert secrets.requester_of(value) == 0
    clock.now += 0.1
    assert secrets.requester_of(value) is None
    assert secrets.session_of(value) is None


def test_a_key_has_so_many_secrets_until_they_expire(
    secrets: ClientSecrets, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_secrets, "MOST_PER_KEY", 2)
    first = secrets.mint(0, {}, seconds=10)
    secrets.mint(0, {}, seconds=60)
    with pytest.raises(TooManySecrets) as caught:
        secrets.mint(0, {}, seconds=10)
    assert caught.value.retry_s == 10
    # Another key's owner does not feel it, and nobody loses what they have.
    assert secrets.requester_of(secrets.mint(1, {}, seconds=10)) == 1
    assert secrets.requester_of(first) == 0

    clock.now += 10
    assert secrets.requester_of(secrets.mint(0, {}, seconds=10)) == 0


def test_a_session_must_be_plain_json(secrets: ClientSecrets) -> None:
    with pytest.raises(ValueError, match="JSON"):
        secrets.mint(0, {"threshold": float("nan")}, seconds=10)
