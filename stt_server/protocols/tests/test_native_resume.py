"""How a session that can be resumed is spoken about."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.errors import InvalidMessage, ResumeFailed
from stt_server.events import Configure, Flush
from stt_server.protocols.base import Finish
from stt_server.protocols.native import NativeCodec
from stt_server.protocols.native_config import Abilities
from stt_server.protocols.native_messages import TranscriptionSegment
from stt_server.protocols.native_resume import Comeback, ResumeOffer, is_interim, stamp
from stt_server.settings import SessionOptions

COMEBACK = {"acked": "8000", "controls": "2", "received": "17"}


def new_codec(*, can_resume: bool = True, **query: str) -> NativeCodec:
    return NativeCodec(
        session_id="s-1",
        defaults=SessionOptions(),
        abilities=Abilities(frozenset({"scripted"}), resume=can_resume),
        max_audio_bytes=2**20,
        query=query,
        resume=ResumeOffer("s-1.secret", 15.0),
    )


def ready_of(codec: NativeCodec, **config: object) -> dict[str, object]:
    (event,) = codec.decode(json.dumps({"type": "config", **config}))
    assert isinstance(event, Configure)
    (message,) = codec.encode(event)
    return json.loads(message)


def test_a_config_message_gets_a_token() -> None:
    codec = new_codec()
    assert not codec.greeting()
    ready = ready_of(codec, resume=True)
    assert ready["resumeToken"] == "s-1.secret"
    assert ready["resumeWindowS"] == 15
    assert codec.resumes


def test_the_url_gets_one_at_once() -> None:
    codec = new_codec(resume="true")
    (greeting,) = codec.greeting()
    ready = json.loads(greeting)
    assert (ready["type"], ready["resumeToken"]) == ("ready", "s-1.secret")
    assert ready["config"]["resume"] is True


def test_the_url_is_told_at_once_that_there_is_none() -> None:
    (greeting,) = new_codec(can_resume=False, resume="true").greeting()
    ready = json.loads(greeting)
    assert ready["config"]["resume"] is False
    assert "resumeToken" not in ready
    assert not new_codec(resume="false").greeting()


def test_a_token_is_told_once() -> None:
    codec = new_codec()
    ready_of(codec, resume=True)
    again = ready_of(codec, resume=False)
    assert "resumeToken" not in again
    assert again["config"] == ready_of(new_codec(), resume=True)["config"]


def test_nobody_else_gets_one() -> None:
    assert "resumeToken" not in ready_of(new_codec())
    elsewhere = new_codec(can_resume=False)
    assert "resumeToken" not in ready_of(elsewhere, resume=True)
    assert not elsewhere.resumes


def test_after_the_first_audio_it_is_too_late() -> None:
    codec = new_codec()
    codec.decode(b"\0\0")
    with pytest.raises(InvalidMessage, match="before the first audio"):
        codec.decode('{"type":"config","resume":true}')
    assert codec.decode('{"type":"config","resume":false}')


def test_control_messages_that_came_before_are_ignored() -> None:
    codec = new_codec()
    for message in ('{"type":"config"}', '{"type":"flush"}', '{"type":"ping"}'):
        codec.decode(message)
    assert codec.controls == 2
    codec.repeat(1)
    assert codec.decode('{"type":"ping"}')
    assert not codec.decode('{"type":"flush"}')
    assert codec.decode('{"type":"flush"}') == [Flush()]
    assert codec.decode('{"type":"finish"}') == [Finish()]
    assert codec.controls == 4


def test_a_config_message_that_was_refused_counts() -> None:
    codec = new_codec()
    with pytest.raises(Exception, match="detector"):
        codec.decode('{"type":"config","endpointing":{"detector":"crystal ball"}}')
    assert codec.controls == 1


def test_the_url_of_a_comeback() -> None:
    assert Comeback.from_query(COMEBACK | {"resume_token": "t"}) == Comeback(8_000, 2, 17)


@pytest.mark.parametrize("name", COMEBACK)
@pytest.mark.parametrize("value", [None, "", "-1", "1.5", "٣", "9" * 40, "x"])
def test_a_comeback_without_its_numbers_fails(name: str, value: str | None) -> None:
    query = {key: text for key, text in (COMEBACK | {name: value}).items() if text is not None}
    with pytest.raises(ResumeFailed, match=name):
        Comeback.from_query(query)


@given(st.text(), st.booleans(), st.booleans())
def test_a_stamped_message_says_what_it_said(text: str, is_final: bool, has_ids: bool) -> None:
    segment = TranscriptionSegment(
        text=text,
        is_final=is_final,
        is_end_of_turn=is_final,
        segment_id="t0s0" if has_ids else None,
    )
    message = segment.model_dump_json(by_alias=True, exclude_none=True)
    stamped = stamp(message, 7, 16_000)
    assert json.loads(stamped) == json.loads(message) | {"messageId": 7, "ackSamples": 16_000}
    assert is_interim(stamped) is not is_final
