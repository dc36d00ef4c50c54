import pytest

from stt_server.clients.address import is_loopback, shown, websocket_url
from stt_server.clients.errors import BadAddress


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("host", "ws://host:15751/ws/transcribe"),
        (" host:80 ", "ws://host:80/ws/transcribe"),
        ("127.0.0.1", "ws://127.0.0.1:15751/ws/transcribe"),
        ("[::1]:9", "ws://[::1]:9/ws/transcribe"),
        ("ws://host:1/", "ws://host:1/ws/transcribe"),
        ("http://host", "ws://host:15751/ws/transcribe"),
        ("https://host", "wss://host:443/ws/transcribe"),
        ("wss://host:8443/stt/ws", "wss://host:8443/stt/ws"),
        ("HTTP://Host/?token=k", "ws://host:15751/ws/transcribe?token=k"),
    ],
)
def test_what_people_type_becomes_a_url(address: str, url: str) -> None:
    assert websocket_url(address) == url


@pytest.mark.parametrize(
    "address",
    ["", "ftp://host", "host:port", "host:99999", "ws://", "[::1", "two words", "ws://me:pw@host"],
)
def test_nonsense_is_named(address: str) -> None:
    with pytest.raises(BadAddress):
        websocket_url(address)


def test_a_key_in_the_query_is_not_shown() -> None:
    assert shown("ws://host:1/ws/transcribe?token=secret") == "ws://host:1/ws/transcribe"


@pytest.mark.parametrize(("host", "local"), [("127.0.0.9", True), ("[::1]", True), ("a.b", False)])
def test_loopback_is_recognised(host: str, local: bool) -> None:
    assert is_loopback(f"ws://{host}:1/") is local
