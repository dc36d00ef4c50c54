"""What the recogniser itself says about turns, from the stage that knows to the one that asks."""

import asyncio

from stt_server.events import Audio, TurnEndReason

PATIENCE_S = 2.0
"""Longest wait for the recogniser while it does not get on."""


class Verdict:
    """A `TurnDetector` whose judgements are made in the ASR stage. One per session.

    Both ends know a pause by how far the stream is then, so that a late answer is never taken for
    one to a later question.
    """

    def __init__(self) -> None:
        self._asked_at = 0
        self._reached = 0
        self._answered_at = -1
        self._sureness: float | None = None
        self._news = asyncio.Event()

    # The asking end

    @property
    def reason(self) -> TurnEndReason:
        return TurnEndReason.MODEL_EOU

    async def hear(self, audio: Audio) -> None:
        self._asked_at = audio.end

    async def judge(self) -> float | None:
        try:
            async with asyncio.timeout(PATIENCE_S) as patience:
                while self._answered_at < self._asked_at:
                    before = self._reached
                    self._news.clear()
                    await self._news.wait()
                    if self._reached > before:
                        # Audio from before the pause is still ahead of the question.
                        patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)
        except TimeoutError:
            return None
        return self._sureness

    async def reset(self) -> None:
        """Nothing is kept."""

    async def close(self) -> None:
        """Nothing to free."""

    # The answering end

    def reach(self, at: int) -> None:
        """The recogniser has heard everything up to sample `at`."""
        self._reached = at
        self._news.set()

    def answer(self, sureness: float | None) -> None:
        """What it thinks of the pause that it has reached."""
        self._answered_at, self._sureness = self._reached, sureness
        self._news.set()
