"""Ctrl-C as a request instead of an exception."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def on_interrupt(action: Callable[[], None]) -> Generator[None, None, None]:
    """The first Ctrl-C calls `action` in the event loop, a second one interrupts as usual."""
    loop = asyncio.get_running_loop()
    usual = signal.getsignal(signal.SIGINT)
    calls: list[asyncio.Handle] = []

    def interrupted(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        calls.append(loop.call_soon_threadsafe(action))

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        for call in calls:
            call.cancel()  # a Ctrl-C in the last moment has nothing left to stop
