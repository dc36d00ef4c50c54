import pytest

from stt_server.clients.errors import UnreadableMessage
from stt_server.clients.messages import UnknownMessage, parse_message
from stt_server.protocols.native_messages import (
    ErrorResponse,
    FinishedMessage,
    SpeechStartedMessage,
    TranscriptionSegment,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"text":"a","isFinal":true,"isEndOfTurn":true,"turnId":3}',
            TranscriptionSegment(text="a", is_final=True, is_end_of_turn=True, turn_id=3),
        ),
        ('{"error":"no","code":"X"}', ErrorResponse(error="no", code="X")),
        (
            '{"type":"error","error":"no","code":"X","fatal":false}',
            ErrorResponse(error="no", code="X", type="error", fatal=False),
        ),
        (
            '{"type":"speechStarted","time":0.5,"turnId":0}',
            SpeechStartedMessage(time=0.5, turn_id=0),
        ),
        (
            '{"type":"finished","audioSeconds":1.5,"turns":2}',
            FinishedMessage(audio_seconds=1.5, turns=2),
        ),
        (
            '{"type":"fromTheFuture","turnId":0}',
            UnknownMessage("fromTheFuture", {"type": "fromTheFuture", "turnId": 0}),
        ),
    ],
)
def test_each_kind_gets_its_type(text: str, message: object) -> None:
    assert parse_message(text) == message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type":"finished"}', '{"text":1}'])
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(UnreadableMessage):
        parse_message(text)
