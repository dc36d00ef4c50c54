from stt_server.clients.options import ClientOptions
from stt_server.protocols.base import Encoding
from stt_server.protocols.native_config import ConfigMessage
from stt_server.settings import EndpointingMode


def test_only_what_was_chosen_is_sent() -> None:
    assert ClientOptions().config() == {
        "type": "config",
        "sampleRate": 16_000,
        "channels": 1,
        "encoding": "pcm16",
    }


def test_every_option_reaches_its_field_of_the_servers_model() -> None:
    options = ClientOptions(
        sample_rate=8_000,
        channels=2,
        encoding=Encoding.MULAW,
        features=("times", "words"),
        interim=False,
        segment_finals=True,
        language="de",
        vocabulary=("Erlangen",),
        model="digits",
        lookahead_ms=80,
        endpointing=EndpointingMode.NONE,
        detector="silence",
        silence_ms=700,
        stall_ms=0,
        eager=True,
        resume=True,
    )
    read = ConfigMessage.model_validate(options.config()).model_dump(exclude_none=True)
    assert read == {
        "type": "config",
        "sample_rate": 8_000,
        "channels": 2,
        "encoding": "mulaw",
        "features": ["times", "words"],
        "interim_results": False,
        "segment_finals": True,
        "language": "de",
        "vocabulary": ["Erlangen"],
        "model": "digits",
        "lookahead_ms": 80,
        "resume": True,
        "endpointing": {
            "mode": EndpointingMode.NONE,
            "detector": "silence",
            "silence_ms": 700,
            "stall_ms": 0,
            "eager": True,
        },
    }
