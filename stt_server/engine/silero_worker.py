"""The process that hears for all streams: requests on stdin, answers on stdout. See
`silero_process.py` for why, and for the layout of both.

It remembers nothing between requests.
"""

import signal
import sys

import numpy as np

from stt_server.engine.silero import load_silero
from stt_server.engine.silero_process import pack_answer, unpack_request
from stt_server.engine.vad import VadState
from stt_server.engine.worker_process import HEADER


def main() -> None:
    """Serve until stdin ends, which it does with the parent."""
    # The parent decides: a signal to the whole group must not silence sessions that drain.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    model = load_silero()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while len(header := requests.read(HEADER.size)) == HEADER.size:
        kind, length = HEADER.unpack(header)
        recurrent, contexts, windows = unpack_request(requests.read(length))
        states = [VadState(recurrent[row], contexts[row]) for row in range(len(recurrent))]
        probabilities = model.run(states, windows)
        flat = np.array([value for row in probabilities for value in row], dtype=np.float32)
        payload = pack_answer(flat, states)
        answers.write(HEADER.pack(kind, len(payload)) + payload)
        answers.flush()
