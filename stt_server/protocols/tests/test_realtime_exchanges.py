"""Whole exchanges as the clients that people run have them, in the order of their messages."""

import pytest

from stt_server.errors import ErrorCode
from stt_server.events import Configure, Flush, SpeechStarted, StreamError, TurnEnded, TurnEndReason
from stt_server.protocols.base import AudioFormat, Packet
from stt_server.protocols.realtime import RealtimeCodec
from stt_server.protocols.tests.realtime_exchange import (
    APPEND,
    COMMIT,
    ITEM,
    MODELS,
    TEXT,
    Json,
    asked,
    audio,
    heard,
    kinds,
    new_codec,
    refused,
    sent,
    told,
    turn,
    update,
)
from stt_server.settings import EndpointingMode

DETECTED = [
    "input_audio_buffer.speech_started",
    f"{TEXT}.delta",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    f"{ITEM}.added",
    f"{ITEM}.done",
    f"{TEXT}.delta",
    f"{TEXT}.completed",
]
COMMITTED = [kind for kind in DETECTED if ".speech_" not in kind]


def running_text(messages: list[Json]) -> list[tuple[str, str]]:
    """What a client has that adds up all deltas until something is completed, and the latter."""
    text, finals = "", list[tuple[str, str]]()
    for message in messages:
        text += message.get("delta", "")
        if message["type"] == f"{TEXT}.completed":
            finals.append((text, message["transcript"]))
            text = ""
    return finals


# LiveKit Agents: updates at once, appends 50 ms, never waits


def livekit(model: str) -> Json:
    transcription = {"model": model, "prompt": "", "language": "en"}
    audio_input: Json = {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "transcription": transcription,
        "noise_reduction": None,
    }
    if not model.startswith("gpt-realtime-whisper"):
        audio_input["turn_detection"] = {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 600,
            "silence_duration_ms": 350,
        }
    return {"type": "transcription", "audio": {"input": audio_input}}


def test_livekit() -> None:
    codec = new_codec(model="gpt-4o-mini-transcribe")
    (configure,) = asked(codec, "session.update", session=livekit("gpt-4o-mini-transcribe"))
    assert asked(codec, APPEND, audio=audio(2_400)) == [Packet(bytes(2_400), AudioFormat(24_000))]
    assert codec.options.endpointing.silence_ms == 350
    assert codec.options.endpointing.pre_roll_ms == 600

    messages = told(codec, configure, *turn("please send", "please send it"))
    # The next stream gets the same connection from a pool.
    messages += update(codec, livekit("gpt-4o-mini-transcribe"))
    messages += told(codec, *turn("no", "no thanks", at=320_000, end=336_000))

    assert kinds(messages) == ["session.updated", *DETECTED] * 2
    assert running_text(messages) == [("please send it",) * 2, ("no thanks",) * 2]
    assert messages[-8]["audio_start_ms"] == 20_000 - 600


def test_livekit_with_a_model_for_which_it_finds_turns_itself() -> None:
    codec = new_codec(model="gpt-realtime-whisper")
    (updated,) = update(codec, livekit("gpt-realtime-whisper"))
    assert updated["session"]["audio"]["input"]["turn_detection"] is None
    assert codec.options.endpointing.mode is EndpointingMode.MANUAL
    messages: list[Json] = []
    for _ in range(2):
        asked(codec, APPEND, audio=audio())
        assert asked(codec, COMMIT) == [Flush(reason=TurnEndReason.COMMIT)]
        messages += told(codec, *turn("yes", "yes please", reason=TurnEndReason.COMMIT))

    assert kinds(messages) == COMMITTED * 2


# Pipecat: waits for the greeting; audio may come before its update


@pytest.mark.parametrize("finds_turns", [False, True])
def test_pipecat(finds_turns: bool) -> None:
    codec = new_codec()
    audio_input: Json = {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
    }
    if finds_turns:
        audio_input["turn_detection"] = None
    asked(codec, APPEND, audio=audio(960))
    (updated,) = update(codec, {"type": "transcription", "audio": {"input": audio_input}})
    MODELS["session.updated"].model_validate(updated)
    asked(codec, APPEND, audio=audio(960))
    reason = TurnEndReason.SILENCE
    if finds_turns:
        reason = TurnEndReason.COMMIT
        assert asked(codec, COMMIT) == [Flush(reason=reason)]

    messages = told(codec, *turn("well", "well then", reason=reason))

    assert kinds(messages) == (COMMITTED if finds_turns else DETECTED)
    assert running_text(messages) == [("well then", "well then")]


# OpenAI's SDK: whatever the application sends, with ids of its own


def test_sdk() -> None:
    codec = new_codec()
    detection = {"type": "semantic_vad", "eagerness": "high"}
    session: Json = {"type": "transcription", "audio": {"input": {"turn_detection": detection}}}
    session["include"] = ["item.input_audio_transcription.logprobs"]
    (configure,) = asked(codec, "session.update", event_id="evt_1", session=session)
    asked(codec, APPEND, event_id="evt_2", audio=audio())

    messages = told(codec, configure, *turn("good", "good day"))

    assert kinds(messages) == ["session.updated", *DETECTED]
    assert [entry["token"] for entry in messages[-1]["logprobs"]] == ["good", "day"]
    assert asked(codec, COMMIT, event_id="evt_3") == [Flush(reason=TurnEndReason.COMMIT)]
    assert told(codec, Flush(reason=TurnEndReason.COMMIT)) == []


# The flat form


def test_flat_form() -> None:
    codec = new_codec()
    session = {
        "input_audio_format": "pcm16",
        "input_audio_transcription": {"model": "whisper-1", "prompt": "", "language": "en"},
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 350,
        },
    }
    update_event = asked(codec, "transcription_session.update", session=session)
    (updated,) = sent(codec, *update_event)
    messages = sent(codec, *turn("please", "please send"))

    assert updated["type"] == "transcription_session.updated"
    assert updated["session"] == {
        **session,
        "id": "sess_abc",
        "object": "realtime.transcription_session",
        "expires_at": 1_790_014_400,
        "input_audio_noise_reduction": None,
        "include": None,
    }
    named = [f"{ITEM}.created" if kind == f"{ITEM}.added" else kind for kind in DETECTED]
    assert kinds(messages) == [kind for kind in named if kind != f"{ITEM}.done"]
    # Who goes on in the other form is answered in that.
    assert kinds(update(codec, {}) + told(codec, *turn("a", "a b"))) == [
        "session.updated",
        *DETECTED,
    ]


# vLLM's dialect

NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def speak_vllm(codec: RealtimeCodec) -> list[Json]:
    """One utterance from its start to its final commit."""
    assert asked(codec, COMMIT, final=False) == []
    assert asked(codec, APPEND, audio=audio()) == [Packet(bytes(480), AudioFormat(16_000))]
    assert asked(codec, COMMIT, final=True) == [Flush(reason=TurnEndReason.COMMIT)]
    return sent(codec, *turn("the", "the quick fox", reason=TurnEndReason.COMMIT))


def test_vllm() -> None:
    codec = new_codec()
    (configure,) = asked(codec, "session.update", model="mistralai/Voxtral")
    assert configure.options.endpointing.mode is EndpointingMode.MANUAL
    (updated,) = sent(codec, configure)
    assert updated["type"] == "session.updated"
    assert updated["session"]["audio"]["input"]["transcription"]["model"] == "mistralai/Voxtral"

    for _ in range(2):
        assert speak_vllm(codec) == [
            {"type": "transcription.delta", "delta": "the"},
            {"type": "transcription.delta", "delta": " quick fox"},
            {"type": "transcription.done", "text": "the quick fox", "usage": NO_TOKENS},
        ]


def test_vllm_without_an_update() -> None:
    codec = new_codec()
    (configure,) = asked(codec, COMMIT, final=False)
    assert isinstance(configure, Configure)
    assert sent(codec, configure) == []

    assert kinds(speak_vllm(codec)) == ["transcription.delta"] * 2 + ["transcription.done"]


def test_vllm_start_without_a_flag_is_no_end() -> None:
    codec = new_codec()
    sent(codec, *asked(codec, "session.update", model="m"))

    assert asked(codec, COMMIT) == []


def test_client_that_leaves_the_dialect_in_mid_utterance_loses_no_text() -> None:
    codec = new_codec()
    sent(codec, *asked(codec, "session.update", model="m"))
    opening, interim, *rest = turn("the", "the", reason=TurnEndReason.COMMIT)
    sent(codec, opening, interim)
    update(codec, {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 24_000}}}})

    messages = told(codec, *rest)

    assert kinds(messages)[0] == "input_audio_buffer.committed"
    assert kinds(messages)[-1] == f"{TEXT}.completed"
    assert messages[-1]["transcript"] == "the"


def test_vllm_final_commit_without_audio_is_done() -> None:
    codec = new_codec()
    configure, flush = asked(codec, COMMIT, final=True)

    messages = sent(codec, configure, flush)

    assert messages == [{"type": "transcription.done", "text": "", "usage": NO_TOKENS}]


def test_vllm_errors_are_flat() -> None:
    codec = new_codec()
    sent(codec, *asked(codec, "session.update", model="m"))
    lost = StreamError(ErrorCode.TRANSCRIPTION_ERROR, "the model is gone")
    opening = SpeechStarted(0, opens_turn=True)

    assert refused(codec, "{")["code"] == "invalid_json"
    assert refused(codec, '{"type":"dance"}') == {
        "type": "error",
        "error": "unknown event type 'dance'",
        "code": "unknown_event",
    }
    ended = TurnEnded(1, TurnEndReason.COMMIT)
    assert sent(codec, opening, lost, ended, heard("", final=True)) == [
        {"type": "error", "error": "the model is gone", "code": "transcription_failed"}
    ]
    assert kinds(speak_vllm(codec))[-1] == "transcription.done"
    fatal = StreamError(ErrorCode.INTERNAL_ERROR, "no idea", fatal=True)
    sent(codec, SpeechStarted(0, opens_turn=True), heard("the"))
    assert sent(codec, fatal) == [{"type": "error", "error": "no idea", "code": "internal_error"}]
