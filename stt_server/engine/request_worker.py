"""Keeps a model's thread alive: proves it, watches it, and starts it again when it fails."""

import asyncio
import logging
import time
from contextlib import suppress

from nemo_lite.results import Transcript
from stt_server.engine.base import EngineUnavailable
from stt_server.engine.request_thread import RequestSource, RequestThread
from stt_server.engine.vowel import synthesise_vowel
from stt_server.errors import Overloaded, TranscriptionError
from stt_server.events import Samples

logger = logging.getLogger(__name__)

PENDING_PER_SLOT = 8
"""Requests taken at most for each place in the batch: those beyond would come too late."""
REQUEST_S = 100.0
"""Longest wait for an answer; with `RESTART_WAIT_S`, less than a session that finishes is given
(`FINISH_STALL_S`)."""
EVIDENCE_S = 10.0
"""A model that answered within this time needs no further proof."""
RESTART_WAIT_S = 10.0
"""How long a request waits for a thread that is being restarted."""
STOP_S = 5.0
MAX_STUCK = 3
"""A thread that hangs keeps its model's memory: while so many do, no other one is started."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
"""Between attempts to start again."""
RESTARTING = "the recogniser is being restarted"
GIVEN_UP = "the recogniser hangs: restart the server"


class RequestWorker:
    """The place of all sessions in one model.

    A thread that raises or hangs fails the requests it held; others wait, for a while, until its
    successor has recognised a sound.
    """

    def __init__(self, source: RequestSource, *, step_timeout_s: float) -> None:
        """
        Args:
            step_timeout_s: A step that takes longer is a hang.
        """
        self._source = source
        self._step_timeout_s = step_timeout_s
        self._thread: RequestThread | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stuck: list[RequestThread] = []
        self._running = asyncio.Event()
        self._answered_at = float("-inf")
        self._stopped = False
        self.slots = 0
        """Requests in one batch; 0 until the model is loaded."""
        self.fault: str | None = "the recogniser is not loaded"
        """Why nothing can be recognised now; None when all is well."""

    async def start(self) -> None:
        """Load the model and have it recognise a sound.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        await self._start_thread()
        self._supervisor = asyncio.create_task(self._supervise(), name="recogniser")

    async def recognise(self, samples: Samples) -> Transcript:
        """The transcript of 16 kHz mono samples; cancelling withdraws the request.

        Raises:
            Overloaded: too many requests are waiting, or the worker was stopped.
            TranscriptionError: it failed; another try may succeed.
        """
        thread = await self._serving_thread()
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
        if self.fault is not None or self._thread is None:
            raise TranscriptionError(f"{self.fault}, try again")
        is_fresh = time.monotonic() - self._answered_at < EVIDENCE_S
        if not is_fresh and not self._thread.pending:
            await self.recognise(synthesise_vowel())

    async def stop(self) -> None:
        """End the thread, or leave it behind if it hangs. Never raises."""
        self._stopped, self.fault = True, "the recogniser is shutting down"
        self._running.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._thread is not None:
            self._thread.fail(Overloaded(self.fault))
            await self._end(self._thread)

    async def _serving_thread(self) -> RequestThread:
        """The thread that takes requests, after a restart if one is under way."""
        if self.fault == RESTARTING:
            with suppress(TimeoutError):
                async with asyncio.timeout(RESTART_WAIT_S):
                    await self._running.wait()
        if self._stopped:
            raise Overloaded("the recogniser is shutting down")
        if self.fault is not None or self._thread is None:
            raise TranscriptionError(f"{self.fault}, try again")
        return self._thread

    async def _start_thread(self) -> None:
        """Raises what keeps the model from loading or from recognising a sound."""
        self._thread = thread = RequestThread(self._source)
        await thread.opened
        try:
            await self._prove(thread)
        except Exception:
            await self._end(thread)
            raise
        self.slots, self.fault = thread.slots, None
        self._running.set()

    async def _prove(self, thread: RequestThread) -> None:
        proof = asyncio.create_task(thread.ask(synthesise_vowel()))
        ended = asyncio.create_task(self._ended(thread))
        try:
            await asyncio.wait([proof, ended], return_when=asyncio.FIRST_COMPLETED)
            if not proof.done():
                raise EngineUnavailable("the model does not recognise a sound: the log has more")
            proof.result()
        finally:
            proof.cancel()
            ended.cancel()
            await asyncio.wait([proof, ended])

    async def _supervise(self) -> None:
        while True:
            assert self._thread is not None
            await self._ended(self._thread)
            self.fault = RESTARTING
            self._running.clear()
            self._thread.fail(TranscriptionError("the recogniser failed, try again"))
            await self._restart()

    async def _ended(self, thread: RequestThread) -> None:
        """Return when `thread` can serve no more: it is gone, or it hangs."""
        while not thread.ended.is_set():
            if thread.busy_s > self._step_timeout_s:
                logger.error("recogniser.stuck", extra={"seconds": round(thread.busy_s, 1)})
                self._stuck.append(thread)
                # The model is still in the hands of that thread.
                self._source.discard()
                thread.stop()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self._step_timeout_s / 4)):
                    await thread.ended.wait()

    async def _restart(self) -> None:
        """Return when a new thread serves."""
        pause_s = FIRST_PAUSE_S
        while not await self._is_restarted():
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    async def _is_restarted(self) -> bool:
        # One that was only slow comes back, and its memory with it.
        self._stuck = [thread for thread in self._stuck if not thread.ended.is_set()]
        if len(self._stuck) >= MAX_STUCK:
            if self.fault != GIVEN_UP:
                logger.error("recogniser.given_up", extra={"hangs": len(self._stuck)})
            self.fault = GIVEN_UP
            return False
        self.fault = RESTARTING
        logger.warning("recogniser.restarting")
        try:
            await self._start_thread()
        except Exception:  # any failure means: not yet
            logger.exception("recogniser.restart_failed")
            self._source.discard()
            return False
        logger.info("recogniser.restarted")
        return True

    async def _end(self, thread: RequestThread) -> None:
        thread.stop()
        try:
            async with asyncio.timeout(STOP_S):
                await thread.ended.wait()
        except TimeoutError:
            logger.warning("recogniser.left_behind")
        if thread.opened.done() and not thread.opened.cancelled():
            thread.opened.exception()  # nobody else may want to know
