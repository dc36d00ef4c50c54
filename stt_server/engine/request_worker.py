"""The place of all sessions in one model that recognises pieces of audio."""

import asyncio
import time
from collections.abc import Sequence

from nemo_lite.results import Transcript
from stt_server.engine.request_thread import RequestSource, RequestThread
from stt_server.engine.supervisor import PAUSES_S, Supervisor
from stt_server.engine.vowel import synthesise_vowel
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import Samples

PENDING_PER_SLOT = 8
"""Requests taken at most for each place in the batch: those beyond would come too late."""
REQUEST_S = 100.0
"""Longest wait for an answer; with `RESTART_WAIT_S`, less than a session that finishes is given
(`FINISH_STALL_S`)."""
EVIDENCE_S = 10.0
"""A model that answered within this time needs no further proof."""


class RequestWorker:
    """Hands requests to the model's thread.

    A thread that raises or hangs fails the requests it held; others wait, for a while, until its
    successor has recognised a sound.
    """

    def __init__(
        self,
        source: RequestSource,
        *,
        name: str,
        step_timeout_s: float,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """
        Args:
            source: of the model; asked at the start and after each failure.
            name: of the model.
            step_timeout_s: A step that takes longer is a hang.
            pauses_s: before each attempt to start again; the last one is repeated.
        """
        self._supervisor = Supervisor(
            name,
            lambda: RequestThread(source),
            self._prove,
            on_lost=lambda thread: thread.fail(TranscriptionError(f"{name} failed, try again")),
            discard=source.discard,
            stuck_s=step_timeout_s,
            pauses_s=pauses_s,
        )
        self._answered_at = float("-inf")
        self.slots = 0
        """Requests in one batch; 0 until the model is loaded."""

    @property
    def fault(self) -> str | None:
        """Why nothing can be recognised now; None when all is well."""
        return self._supervisor.fault

    async def start(self) -> None:
        """Load the model and have it recognise a sound.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        await self._supervisor.start()

    async def recognise(self, samples: Samples) -> Transcript:
        """The transcript of 16 kHz mono samples; cancelling withdraws the request.

        Raises:
            Overloaded: too many requests are waiting, the model is given up, or the worker was
                stopped.
            TranscriptionError: it failed; another try may succeed.
        """
        thread = await self._supervisor.serving()
        if thread.pending >= PENDING_PER_SLOT * thread.slots:
            raise Overloaded("too much speech is waiting to be recognised, try again later")
        try:
            async with asyncio.timeout(REQUEST_S):
                transcript = await thread.ask(samples)
        except TimeoutError as error:
            raise TranscriptionError("the recogniser took too long") from error
        self._answered_at = time.monotonic()
        return transcript

    async def check(self) -> None:
        """Recognise a sound, unless something was recognised just now, or is at this moment: behind
        what waits in a busy model a sound would be late. A step that hangs becomes a fault.

        Raises:
            SttError: it cannot.
        """
        thread = self._supervisor.thread
        if thread is None:
            raise TranscriptionError(f"{self.fault}, try again")
        is_fresh = time.monotonic() - self._answered_at < EVIDENCE_S
        if not is_fresh and not thread.pending:
            await self.recognise(synthesise_vowel())

    async def stop(self) -> None:
        """End the thread, or leave it behind if it hangs. Never raises."""
        thread = self._supervisor.thread
        if thread is not None:
            thread.fail(Overloaded("the server is shutting down"))
        await self._supervisor.stop()

    async def _prove(self, thread: RequestThread) -> None:
        await thread.opened
        await thread.ask(synthesise_vowel())
        self.slots = thread.slots
