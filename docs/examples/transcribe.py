"""Transcribes a file with OpenAI's SDK: its text, then when each word was said.

pip install openai
python transcribe.py talk.wav
"""

import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:15751/v1", api_key="unused")
with open(sys.argv[1], "rb") as file:
    found = client.audio.transcriptions.create(
        file=file,
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
print(found.text)
for word in found.words or []:
    print(f"{word.start:8.2f} {word.end:8.2f}  {word.word}")
