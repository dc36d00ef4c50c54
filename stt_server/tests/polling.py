"""Waiting for states of threads that announce themselves nowhere."""

import asyncio
from collections.abc import Callable

PAUSE_S = 0.005


async def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
    """Ask until it is true."""
    for _ in range(round(timeout_s / PAUSE_S)):
        if condition():
            return
        await asyncio.sleep(PAUSE_S)
    raise AssertionError(f"not within {timeout_s} s: {what}")
