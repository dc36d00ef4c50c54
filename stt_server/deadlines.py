"""What happens in a session because time passes. Pure: it is told the time and what happened, and
says what is due; `session.py` does it."""

from stt_server.errors import IdleTimeout, InternalError, SessionError, SessionLimit, Unauthorized
from stt_server.pipeline import Progress
from stt_server.settings import LimitSettings

BACKLOG_WARNING_S = 5.0
"""A client is told when the server is behind by more than this, and as rarely as this."""
SPLIT_SAMPLE_WAIT_S = 1.0
"""How long half a sample waits for the packet with its other half."""
FINISH_STALL_S = 120.0
"""A session that is to finish and does not get on for so long is given up."""
LAG_EVERY_S = 1.0
MIN_PAUSE_S = 0.05


class Deadlines:
    """Times of one session, all on its own clock.

    Attributes:
        ending: Why the session ends, once the server wants it to.
        finishing: Whether no more audio is taken.
    """

    def __init__(self, limits: LimitSettings, progress: Progress, now: float) -> None:
        self.ending: SessionError | None = None
        self.finishing = False
        self._limits = limits
        self._progress = progress
        self._draining: SessionError | None = None
        self._opened_at = self._heard_at = self._audio_at = now
        self._finishing_at = self._ending_at = self._observed_at = now
        self._warned_at = now - BACKLOG_WARNING_S

    def heard(self, now: float) -> None:
        """A message came."""
        self._heard_at = now

    def took_audio(self, now: float) -> None:
        """The last audio so far was taken."""
        self._audio_at = now

    def came_back(self, now: float) -> None:
        """The client is there again; while it was not, it could not be late."""
        self._heard_at = self._audio_at = now

    def end(self, error: SessionError, now: float) -> None:
        """The session is to end with `error`; the first one counts."""
        if self.ending is None:
            self.ending, self._ending_at = error, now

    def finish(self, now: float) -> None:
        """No more audio is taken."""
        self.finishing, self._finishing_at = True, now

    def drain(self, error: SessionError) -> None:
        """The session is to end with `error` once no turn is open."""
        self._draining = error

    def next_look_s(self, stall_s: float) -> float:
        """How long to wait before asking again."""
        pause_s = min(1.0, stall_s / 4 or 1.0, self._limits.handshake_s / 2)
        return max(MIN_PAUSE_S, pause_s)

    def overdue(self, now: float, *, waits_for_key: bool) -> SessionError | None:
        """What ends the session at once."""
        moved_at = max(self._finishing_at, self._progress.done_at)
        if self.ending is not None and now - self._ending_at > self._limits.drain_s / 2:
            return self.ending
        if self.finishing and now - moved_at > FINISH_STALL_S:
            return InternalError("the session could not be finished")
        if waits_for_key and now - self._opened_at > self._limits.handshake_s:
            return Unauthorized("no API key came in time")
        return None

    def over(self, now: float, *, pinged_at: float, is_detached: bool) -> SessionError | None:
        """What ends the session after what was said has been sent.

        Args:
            pinged_at: When the peer last showed life without a message.
        """
        limits, progress = self._limits, self._progress
        # A turn may yet open in what is still to be heard.
        if self._draining is not None and not progress.turn_open and not progress.lag_seconds:
            return self._draining
        # A client that waits for audio it has sent to be decoded is not idle.
        last_sign = max(self._heard_at, pinged_at, progress.done_at)
        is_idle = bool(limits.idle_timeout_s) and now - last_sign > limits.idle_timeout_s
        if is_idle and not is_detached:
            return IdleTimeout(f"nothing received for {limits.idle_timeout_s:g} s")
        if limits.max_session_s and now - self._opened_at > limits.max_session_s:
            return SessionLimit(f"sessions end after {limits.max_session_s:g} s")
        return None

    def has_stalled(self, now: float, stall_s: float) -> bool:
        """Whether the client stopped sending in the middle of a turn, all of which is decoded."""
        progress = self._progress
        if not stall_s or not progress.turn_open or progress.lag_seconds or self.finishing:
            return False
        return now - max(self._audio_at, progress.done_at) >= stall_s

    def waits_for_half_a_sample_too_long(self, now: float) -> bool:
        """Given that one waits at all."""
        return now - self._audio_at > SPLIT_SAMPLE_WAIT_S

    def lag_to_observe(self, now: float) -> float | None:
        """Seconds of audio the server is behind, once per second."""
        if now - self._observed_at < LAG_EVERY_S:
            return None
        self._observed_at = now
        return self._progress.lag_seconds

    def backlog_to_tell(self, now: float) -> float | None:
        """The same as far as the client should know."""
        lag = self._progress.lag_seconds
        if lag <= BACKLOG_WARNING_S or now - self._warned_at < BACKLOG_WARNING_S:
            return None
        self._warned_at = now
        return lag
