"""Prints what is said in a WAV file (16 bit, mono) while it is played, in a Pipecat pipeline.

pip install "pipecat-ai[openai]>=1.3"
python pipecat_realtime.py talk.wav
"""

import asyncio
import sys
import wave

from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService
from pipecat.workers.runner import WorkerRunner

PACKET_S = 0.02
QUIET_S = 2.0
"""Silence after the file, in which the last turn ends."""


class Printer(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InterimTranscriptionFrame):
            print("…", frame.text)
        elif isinstance(frame, TranscriptionFrame):
            print("=", frame.text)
        await self.push_frame(frame, direction)


async def play(worker: PipelineWorker, file: wave.Wave_read) -> None:
    rate = file.getframerate()
    count = round(rate * PACKET_S)
    silence = [bytes(2 * count)] * round(QUIET_S / PACKET_S)
    packets = iter(lambda: file.readframes(count), b"")
    for packet in (*packets, *silence):
        await worker.queue_frame(InputAudioRawFrame(packet, rate, 1))
        await asyncio.sleep(PACKET_S)
    await worker.queue_frame(EndFrame())


async def main() -> None:
    stt = OpenAIRealtimeSTTService(
        base_url="ws://127.0.0.1:15751/v1/realtime",
        api_key="unused",
        # The server finds the turns; by default a VAD in the pipeline does, and commits them.
        turn_detection={"type": "server_vad", "silence_duration_ms": 500},
    )
    with wave.open(sys.argv[1]) as file:
        params = PipelineParams(audio_in_sample_rate=file.getframerate())
        worker = PipelineWorker(Pipeline([stt, Printer()]), params=params)
        runner = WorkerRunner()
        await runner.add_workers(worker)
        await asyncio.gather(runner.run(), play(worker, file))


asyncio.run(main())
