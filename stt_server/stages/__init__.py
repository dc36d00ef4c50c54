"""Thin asynchronous shells around pure classes; `pipeline.py` runs them."""
