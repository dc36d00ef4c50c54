"""The older, flat session object of the Realtime protocol: `transcription_session.update`."""

from typing import Any, Literal

from stt_server.protocols.realtime_session import (
    AudioSection,
    Format,
    Input,
    NoiseReduction,
    RealtimeConfig,
    SessionUpdate,
    Transcription,
    TurnDetection,
    parse_part,
)

_FORMATS: dict[str, Literal["audio/pcm", "audio/pcmu", "audio/pcma"]] = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
_NAMES = {
    "input_audio_format": "format",
    "input_audio_noise_reduction": "noise_reduction",
    "input_audio_transcription": "transcription",
    "turn_detection": "turn_detection",
}
"""Flat name → name in `audio.input`."""


class _FlatSession(SessionUpdate):
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] | None = None
    input_audio_noise_reduction: NoiseReduction | None = None
    input_audio_transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


def parse_flat(value: object) -> SessionUpdate:
    """A client's flat `session`.

    Raises:
        BadEvent: a value is wrong.
    """
    flat = parse_part(_FlatSession, value)
    given = {_NAMES[name]: getattr(flat, name) for name in flat.model_fields_set & set(_NAMES)}
    if given.get("format") is not None:
        given["format"] = Format(type=_FORMATS[given["format"]])
    # Built without validation: what was not given must not count as given.
    audio = AudioSection.model_construct(input=Input.model_construct(**given))
    also: dict[str, Any] = {"include": flat.include} if "include" in flat.model_fields_set else {}
    return SessionUpdate.model_construct(audio=audio, **also)


def describe_flat(config: RealtimeConfig) -> dict[str, Any]:
    """What a flat `session` has beside its identity."""
    described = config.describe()
    inside = described["audio"]["input"]
    names = {kind: name for name, kind in _FORMATS.items()}
    inside["format"] = names[inside["format"]["type"]]
    return {flat: inside[name] for flat, name in _NAMES.items()} | {"include": config.include}
