"""What is special about OpenAI's Realtime protocol."""

from pydantic import Field

from stt_server.settings.section import Section


class RealtimeSettings(Section):
    """Limits of OpenAI's Realtime protocol in place of those of all."""

    idle_timeout_s: float = Field(
        default=900.0,
        ge=0.0,
        description="Without any message the session ends; 0 = never. Frameworks keep connections "
        "for ten minutes.",
    )
    max_append_bytes: int = Field(
        default=15 * 2**20,
        ge=1_024,
        description="Decoded audio in one `input_audio_buffer.append`.",
    )
