"""How loud a packet is, for a level meter."""

import math

import numpy as np

FLOOR_DB = -60.0


def level_db(pcm16: bytes) -> float:
    """Root mean square in dB of full scale, between -60 and 0."""
    samples = np.frombuffer(pcm16, dtype="<i2").astype(np.float32) / 32_768
    power = float(np.mean(samples**2)) if len(samples) else 0.0
    return max(FLOOR_DB, 10 * math.log10(power)) if power > 0 else FLOOR_DB
