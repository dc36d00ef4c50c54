"""The FastConformer encoder, whole files and live streams; one file per block.

Sources: arXiv 2305.05084 (FastConformer), 2312.17279 (cache-aware streaming), 1901.02860
(relative positions).
"""

from nemo_lite.conformer.cache import EncoderCache
from nemo_lite.conformer.encoder import FastConformer

__all__ = ["EncoderCache", "FastConformer"]
