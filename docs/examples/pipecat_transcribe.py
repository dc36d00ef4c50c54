"""Transcribes a WAV file with Pipecat's service for OpenAI, over REST.

pip install "pipecat-ai[openai]"
python pipecat_transcribe.py talk.wav

In a pipeline the service stands where any other STT service would, behind a VAD.
"""

import asyncio
import sys
from pathlib import Path

from pipecat.frames.frames import TranscriptionFrame
from pipecat.services.openai.stt import OpenAISTTService


async def main(sound: bytes) -> None:
    stt = OpenAISTTService(base_url="http://127.0.0.1:15751/v1", api_key="unused")
    async for frame in stt.run_stt(sound):
        if isinstance(frame, TranscriptionFrame):
            print(frame.text)


asyncio.run(main(Path(sys.argv[1]).read_bytes()))
