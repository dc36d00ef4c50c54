"""Both sides of a Realtime codec; OpenAI's own types check what it says."""

import base64
import json
from typing import Any, TypeAlias, get_args

import pytest
from openai.types.realtime import RealtimeServerEvent
from pydantic import BaseModel

from stt_server.errors import BadMessage
from stt_server.events import (
    Flush,
    Hypothesis,
    SpeechStarted,
    StreamError,
    TurnEnded,
    TurnEndReason,
    Word,
)
from stt_server.protocols.realtime import Identity, RealtimeCodec
from stt_server.protocols.realtime_session import Terms
from stt_server.settings import EndpointingSettings

Json: TypeAlias = dict[str, Any]
MIB = 2**20
IDENTITY = Identity("abc", 1_790_000_000, 1_790_014_400)
TERMS = Terms("scripted", EndpointingSettings())
MODELS: dict[str, type[BaseModel]] = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(RealtimeServerEvent)[0])
}
BY_CLIENT: Json = {"audio": {"input": {"turn_detection": None}}}
APPEND, COMMIT, CLEAR = (f"input_audio_buffer.{name}" for name in ("append", "commit", "clear"))
ITEM = "conversation.item"
TEXT = "conversation.item.input_audio_transcription"


def new_codec(**arguments: Any) -> RealtimeCodec:
    return RealtimeCodec(IDENTITY, TERMS, **{"max_append_bytes": 15 * MIB, **arguments})


def asked(codec: RealtimeCodec, kind: str, **fields: Any) -> list[Any]:
    """What the client wants with an event."""
    return list(codec.decode(json.dumps({"type": kind, **fields})))


def sent(codec: RealtimeCodec, *events: Any) -> list[Json]:
    return [json.loads(message) for event in events for message in codec.encode(event)]


def told(codec: RealtimeCodec, *events: Any) -> list[Json]:
    """The messages of `events`, each of a type that OpenAI's client knows."""
    messages = sent(codec, *events)
    for message in messages:
        MODELS[message["type"]].model_validate(message)
    return messages


def refused(codec: RealtimeCodec, message: str) -> Json:
    """The answer to a message that is refused."""
    with pytest.raises(BadMessage) as caught:
        list(codec.decode(message))
    (answer,) = codec.encode(StreamError(caught.value.code, str(caught.value)))
    return json.loads(answer)


def audio(size: int = 480) -> str:
    """So many bytes."""
    return base64.b64encode(bytes(size)).decode()


def update(codec: RealtimeCodec, session: Json) -> list[Json]:
    return told(codec, *asked(codec, "session.update", session=session))


def heard(text: str, *, final: bool = False, **fields: Any) -> Hypothesis:
    """All of it stable."""
    words = tuple(Word(word, 0, 1, 0.5) for word in text.split())
    return Hypothesis(0, text, "", words, 0, 1, final, audio_samples=24_000, **fields)


def turn(
    *texts: str, at: int = 16_000, end: int = 40_000, reason: TurnEndReason = TurnEndReason.SILENCE
) -> list[Any]:
    """Interims, then the last text as the final; behind a commit its `Flush`."""
    *interims, last = texts
    flush = [Flush(reason=reason)] if reason is TurnEndReason.COMMIT else []
    opening, ending = SpeechStarted(at, opens_turn=True), TurnEnded(end, reason)
    return [opening, *map(heard, interims), ending, heard(last, final=True), *flush]


def kinds(messages: list[Json]) -> list[str]:
    return [message["type"] for message in messages]
