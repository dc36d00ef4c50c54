"""Prints the text of a file while it is being transcribed, with OpenAI's SDK.

pip install openai
python stream.py talk.wav
"""

import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:15751/v1", api_key="unused")
with open(sys.argv[1], "rb") as file:
    stream = client.audio.transcriptions.create(file=file, model="whisper-1", stream=True)
for event in stream:
    if event.type == "transcript.text.delta":
        print(event.delta, end="", flush=True)
print()
