"""API keys in every place clients put them, and web origins."""

import base64
import hmac
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.auth import Authenticator, presents_key, select_subprotocol
from stt_server.settings import AuthSettings

KEY = "s3cret/key+with=signs"


def authenticator(*keys: str, origins: Sequence[str] = ()) -> Authenticator:
    return Authenticator(
        AuthSettings.model_validate({"api_keys": keys, "allowed_origins": tuple(origins)})
    )


def encoded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


PLACES: list[tuple[dict[str, str], dict[str, str], list[str]]] = [
    ({"authorization": f"Bearer {KEY}"}, {}, []),
    ({"authorization": f"bearer {KEY}"}, {}, []),
    ({"authorization": f"Token {KEY}"}, {}, []),
    ({"authorization": f"Bearer  {KEY} "}, {}, []),
    ({"api-key": KEY}, {}, []),
    ({}, {"token": KEY}, []),
    ({}, {"api_key": KEY}, []),
    ({}, {}, ["stt.v1", f"token.{encoded(KEY)}"]),
    ({}, {}, ["realtime", f"openai-insecure-api-key.{KEY}"]),
    ({"authorization": "Bearer unused"}, {"token": KEY}, []),
]


@pytest.mark.parametrize(("headers", "query", "subprotocols"), PLACES)
def test_key_is_found_in_each_place(
    headers: dict[str, str], query: dict[str, str], subprotocols: list[str]
) -> None:
    assert authenticator(KEY).allows_request(headers, query, subprotocols)


@pytest.mark.parametrize(("headers", "query", "subprotocols"), PLACES)
def test_wrong_key_is_refused_in_each_place(
    headers: dict[str, str], query: dict[str, str], subprotocols: list[str]
) -> None:
    assert not authenticator("another").allows_request(headers, query, subprotocols)
    assert presents_key(headers, query, subprotocols)


@pytest.mark.parametrize(("headers", "query", "subprotocols"), PLACES)
def test_any_key_is_accepted_when_none_is_configured(
    headers: dict[str, str], query: dict[str, str], subprotocols: list[str]
) -> None:
    assert authenticator().allows_request(headers, query, subprotocols)


def test_request_without_a_key_is_allowed_only_when_none_is_configured() -> None:
    assert authenticator().allows_request({}, {})
    assert not authenticator(KEY).allows_request({}, {})


@pytest.mark.parametrize(
    ("headers", "subprotocols"),
    [
        ({"authorization": f"Basic {KEY}"}, []),
        ({"authorization": "Bearer"}, []),
        ({"authorization": KEY}, []),
        ({}, ["stt.v1"]),
        ({}, [encoded(KEY)]),
    ],
)
def test_key_in_another_form_is_no_key(headers: dict[str, str], subprotocols: list[str]) -> None:
    assert not presents_key(headers, {}, subprotocols)


@pytest.mark.parametrize("offer", ["token.é", "token.A", "token._w", "token.", "token.\x00"])
def test_unreadable_token_subprotocol_is_refused(offer: str) -> None:
    assert not authenticator(KEY).allows_request({}, {}, ["stt.v1", offer])


def test_each_configured_key_is_accepted() -> None:
    keys = ("one", "two", "three")

    assert all(authenticator(*keys).accepts(key) for key in keys)


@pytest.mark.parametrize("key", ["", "s3cret", f"{KEY} ", KEY.upper(), f"{KEY}{KEY}", "schlüssel"])
def test_key_that_nearly_matches_is_refused(key: str) -> None:
    assert not authenticator(KEY).accepts(key)


def test_keys_may_hold_any_character() -> None:
    assert authenticator("schlüssel").accepts("schlüssel")


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given_key: bytes, known: bytes) -> bool:
        compared.append(known)
        return given_key == known

    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert authenticator("one", "two", "three").accepts("one")
    assert compared == [b"one", b"two", b"three"]


def test_keys_are_required_only_when_configured() -> None:
    assert authenticator(KEY).required
    assert not authenticator().required


# Subprotocols


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ([], None),
        (["chat"], None),
        (["stt.v1"], "stt.v1"),
        (["realtime"], "realtime"),
        (["token.abc", "stt.v1"], "stt.v1"),
        (["openai-insecure-api-key.abc", "realtime"], "realtime"),
        (["token.abc"], None),
        (["openai-insecure-api-key.abc"], None),
        (["realtime", "stt.v1"], "realtime"),
    ],
)
def test_the_offer_that_is_no_secret_is_selected(offered: list[str], selected: str | None) -> None:
    assert select_subprotocol(offered) == selected


# Origins


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "stt.example:15751"),
        ("http://stt.example:15751", "stt.example:15751"),
        ("https://stt.example", "stt.example"),
        ("http://localhost:3000", "stt.example"),
        ("http://127.0.0.1", "stt.example"),
        ("http://[::1]:8000", "stt.example"),
        ("https://app.example", "stt.example"),
        ("https://app.example/", "stt.example"),
    ],
)
def test_origin_is_allowed(origin: str | None, host: str) -> None:
    assert authenticator(origins=["https://app.example"]).allows_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "stt.example"),
        ("http://stt.example:8000", "stt.example:15751"),
        ("http://stt.example", "stt.example:15751"),
        ("http://example", "stt.example"),
        ("https://localhost.evil.example", "stt.example"),
        ("https://stt.example.evil.example", "stt.example"),
        ("https://127.0.0.1.evil.example", "stt.example"),
        ("http://app.example", "stt.example"),
        ("https://sub.app.example", "stt.example"),
        ("null", "stt.example"),
        ("", "stt.example"),
        ("null", None),
        ("", ""),
        ("file://", ""),
        ("http://[", "stt.example"),
    ],
)
def test_origin_is_refused(origin: str, host: str | None) -> None:
    assert not authenticator(origins=["https://app.example/"]).allows_origin(origin, host)


def test_star_allows_every_origin() -> None:
    assert authenticator(origins=["*"]).allows_origin("https://evil.example", "stt.example")


# Properties


@given(st.text(min_size=1), st.text())
def test_a_key_matches_itself_alone(key: str, other: str) -> None:
    one = authenticator(key)

    assert one.accepts(key)
    assert one.accepts(other) == (key == other)


@given(st.text(min_size=1))
def test_any_key_survives_the_subprotocol_form(key: str) -> None:
    assert authenticator(key).allows_request({}, {}, ["stt.v1", f"token.{encoded(key)}"])


@given(st.text(), st.text(), st.lists(st.text().map("token.".__add__)))
def test_no_request_breaks_the_check(header: str, origin: str, offers: list[str]) -> None:
    one = authenticator(KEY)

    assert not one.allows_request({"authorization": header}, {}, offers)
    assert one.allows_origin(f"http://{origin}", "stt.example") in (True, False)


def test_a_request_is_its_first_valid_keys() -> None:
    keys = authenticator("one", "two")
    assert keys.requester({"api-key": "two"}, {"token": "one"}) == 1
    assert keys.requester({"api-key": "three"}, {"token": "one"}) == 0
    assert keys.requester({"api-key": "three"}, {}) is None
    assert authenticator().requester({"api-key": "three"}, {}) == 0


# Client secrets


@pytest.mark.parametrize("form", ["bearer", "query", "browser", "openai"])
def test_a_client_secret_opens_streams_and_nothing_else(form: str) -> None:
    keys = authenticator("one", "two")
    secret = keys.secrets.mint(1, {"include": []}, seconds=60)
    places: dict[str, tuple[dict[str, str], dict[str, str], list[str]]] = {
        "bearer": ({"authorization": f"Bearer {secret}"}, {}, []),
        "query": ({}, {"token": secret}, []),
        "browser": ({}, {}, ["stt.v1", f"token.{encoded(secret)}"]),
        "openai": ({}, {}, ["realtime", f"openai-insecure-api-key.{secret}"]),
    }
    request = places[form]

    assert keys.requester(*request) == 1
    assert keys.session_of(*request) == {"include": []}
    assert keys.key_holder(*request) is None
    assert not keys.allows_request(*request)


def test_a_client_secret_is_a_key_in_messages_too() -> None:
    keys = authenticator("one", "two")
    secret = keys.secrets.mint(1, {}, seconds=60)

    assert keys.accepts(secret)
    assert keys.number(secret) == 1
    assert not authenticator("one", "two").accepts(secret)


def test_a_client_secret_lasts_until_it_expires() -> None:
    now = [0.0]
    keys = Authenticator(AuthSettings.model_validate({"api_keys": ["one"]}), clock=lambda: now[0])
    secret = keys.secrets.mint(0, {"include": []}, seconds=60)
    now[0] = 60.0

    assert not keys.accepts(secret)
    assert keys.session_of({"api-key": secret}, {}) is None


def test_without_keys_a_client_secret_still_brings_its_session() -> None:
    nobody = authenticator()
    secret = nobody.secrets.mint(0, {"include": []}, seconds=60)

    assert nobody.session_of({"api-key": secret}, {}) == {"include": []}
    assert nobody.session_of({"api-key": "unused"}, {}) is None
    assert nobody.requester({"api-key": secret}, {}) == 0
