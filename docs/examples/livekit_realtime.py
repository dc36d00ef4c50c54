"""Prints what is said in a WAV file (16 bit, mono) while it is played, with LiveKit's plugin.

pip install livekit-agents livekit-plugins-openai
python livekit_realtime.py talk.wav

In an agent: AgentSession(stt=openai.STT(base_url=..., api_key=..., use_realtime=True), ...)
"""

import asyncio
import sys
import wave

from livekit import rtc
from livekit.agents.stt import SpeechEventType, SpeechStream
from livekit.agents.utils import http_context
from livekit.plugins import openai

PACKET_S = 0.02
QUIET_S = 4.0
"""After the file, nothing for so long means that all was said."""


async def play(stream: SpeechStream, file: wave.Wave_read) -> None:
    rate = file.getframerate()
    while packet := file.readframes(round(rate * PACKET_S)):
        stream.push_frame(rtc.AudioFrame(packet, rate, 1, len(packet) // 2))
        await asyncio.sleep(PACKET_S)
    stream.end_input()


async def main() -> None:
    # An agent's job brings its own HTTP session; a program of its own must open one.
    async with http_context.open():
        stt = openai.STT(base_url="http://127.0.0.1:15751/v1", api_key="unused", use_realtime=True)
        with wave.open(sys.argv[1]) as file:
            async with stt.stream() as stream:
                playing = asyncio.create_task(play(stream, file))
                while True:
                    try:
                        async with asyncio.timeout(QUIET_S):
                            event = await anext(stream)
                    except TimeoutError:
                        if playing.done():
                            break
                        continue
                    if event.type == SpeechEventType.INTERIM_TRANSCRIPT:
                        print("…", event.alternatives[0].text)
                    elif event.type == SpeechEventType.FINAL_TRANSCRIPT:
                        print("=", event.alternatives[0].text)
                await playing
        await stt.aclose()


asyncio.run(main())
