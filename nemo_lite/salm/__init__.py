"""Canary-Qwen: a FastConformer whose frames a Qwen3 language model reads as if they were tokens."""
