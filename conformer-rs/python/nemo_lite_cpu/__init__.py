"""Streaming FastConformer encoders on the CPU with 8-bit weights."""

from nemo_lite_cpu._nemo_lite_cpu import Encoder, Linear, Subsampling, isas

__all__ = ["Encoder", "Linear", "Subsampling", "isas"]
