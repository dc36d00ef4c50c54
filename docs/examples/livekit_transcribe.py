"""Transcribes a WAV file (16 bit) with LiveKit's plugin for OpenAI, over REST.

pip install livekit-agents livekit-plugins-openai
python livekit_transcribe.py talk.wav

In an agent: AgentSession(stt=openai.STT(base_url=..., api_key=...), vad=silero.VAD.load(), ...)
"""

import asyncio
import sys
import wave

from livekit import rtc
from livekit.plugins import openai


async def main() -> None:
    with wave.open(sys.argv[1]) as file:
        samples = file.readframes(file.getnframes())
        frame = rtc.AudioFrame(samples, file.getframerate(), file.getnchannels(), file.getnframes())
    stt = openai.STT(base_url="http://127.0.0.1:15751/v1", api_key="unused")
    event = await stt.recognize(frame)
    print(event.alternatives[0].text)
    await stt.aclose()


asyncio.run(main())
