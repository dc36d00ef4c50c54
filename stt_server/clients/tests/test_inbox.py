import json
from collections.abc import Mapping

from stt_server.clients.inbox import Inbox
from stt_server.clients.messages import parse_message


def put(inbox: Inbox, message: Mapping[str, object]) -> None:
    text = json.dumps(message)
    inbox.put(text, parse_message(text))


def segment(text: str, *, final: bool = False) -> dict[str, object]:
    return {"text": text, "isFinal": final, "isEndOfTurn": final}


def drain(inbox: Inbox) -> list[dict[str, object]]:
    return [json.loads(inbox.get()) for _ in range(len(inbox))]


def test_everything_is_kept_in_order_while_there_is_little() -> None:
    inbox = Inbox()
    messages = [segment("a"), segment("a b"), segment("a b c", final=True), {"type": "flushed"}]
    for message in messages:
        put(inbox, message)
    assert drain(inbox) == messages


def test_beyond_the_thin_mark_a_segment_replaces_the_interim_before_it() -> None:
    inbox = Inbox(thin_bytes=1)
    flushed: dict[str, object] = {"type": "flushed"}
    for message in [
        segment("a"),
        segment("a b"),
        segment("a b", final=True),
        segment("c"),
        flushed,
    ]:
        put(inbox, message)
    assert drain(inbox) == [segment("a b", final=True), segment("c"), flushed]


def test_full_by_bytes_until_read() -> None:
    inbox = Inbox(full_bytes=10)
    assert not inbox.is_full
    put(inbox, segment("long enough", final=True))
    assert inbox.is_full
    inbox.get()
    assert not inbox.is_full
