"""Prints what is said in a WAV file (16 bit, mono) while it is played, with OpenAI's SDK.

pip install "openai[realtime]"
python realtime.py talk.wav

The server finds the turns. From a microphone it is the same, without an end.
"""

import asyncio
import base64
import sys
import wave

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

PACKET_S = 0.1
QUIET_S = 3.0
"""After the file, nothing for so long means that all was said."""


async def play(connection: AsyncRealtimeConnection, file: wave.Wave_read) -> None:
    while packet := file.readframes(round(file.getframerate() * PACKET_S)):
        await connection.input_audio_buffer.append(audio=base64.b64encode(packet).decode())
        await asyncio.sleep(PACKET_S)


async def main() -> None:
    client = AsyncOpenAI(base_url="http://127.0.0.1:15751/v1", api_key="unused")
    with wave.open(sys.argv[1]) as file:
        audio = {
            # OpenAI takes 24000 alone; this server takes any rate from 8000 to 48000.
            "format": {"type": "audio/pcm", "rate": file.getframerate()},
            "transcription": {"model": "gpt-4o-transcribe", "language": "en"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
        }
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            session = {"type": "transcription", "audio": {"input": audio}}
            await connection.session.update(session=session)
            playing = asyncio.create_task(play(connection, file))
            while True:
                try:
                    async with asyncio.timeout(QUIET_S):
                        event = await connection.recv()
                except TimeoutError:
                    if playing.done():
                        break
                    continue
                match event.type:
                    case "conversation.item.input_audio_transcription.delta":
                        print(event.delta, end="", flush=True)
                    case "conversation.item.input_audio_transcription.completed":
                        print(f"\n= {event.transcript}")
                    case "error":
                        raise SystemExit(event.error.message)
            await playing


asyncio.run(main())
