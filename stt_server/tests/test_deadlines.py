"""What is due in a session, with the times in the tests' hands."""

import pytest

from stt_server.deadlines import BACKLOG_WARNING_S, FINISH_STALL_S, Deadlines
from stt_server.errors import ServerShutdown, SessionError
from stt_server.events import SAMPLE_RATE
from stt_server.pipeline import Progress
from stt_server.settings import LimitSettings

GOING_DOWN = ServerShutdown("going down")


def deadlines_of(progress: Progress | None = None, **limits: float) -> Deadlines:
    settings = LimitSettings.model_validate(limits)
    return Deadlines(settings, progress or Progress(), now=0.0)


def over(deadlines: Deadlines, now: float, *, is_detached: bool = False) -> str | None:
    error = deadlines.over(now, pinged_at=0.0, is_detached=is_detached)
    return None if error is None else error.code


def overdue(deadlines: Deadlines, now: float) -> SessionError | None:
    return deadlines.overdue(now, waits_for_key=False)


def test_a_client_is_idle_when_nothing_comes() -> None:
    deadlines = deadlines_of(idle_timeout_s=10)
    deadlines.heard(5.0)
    assert over(deadlines, 14.9) is None
    assert over(deadlines, 15.1) == "IDLE_TIMEOUT"
    assert deadlines.over(15.1, pinged_at=12.0, is_detached=False) is None


def test_who_waits_for_the_server_is_not_idle() -> None:
    progress = Progress()
    deadlines = deadlines_of(progress, idle_timeout_s=10)
    progress.done_at = 12.0
    assert over(deadlines, 20.0) is None


def test_who_is_away_is_not_idle_and_starts_afresh() -> None:
    deadlines = deadlines_of(idle_timeout_s=10)
    assert over(deadlines, 20.0, is_detached=True) is None
    deadlines.came_back(20.0)
    assert over(deadlines, 29.0) is None
    assert over(deadlines, 31.0) == "IDLE_TIMEOUT"


@pytest.mark.parametrize("is_detached", [True, False])
def test_a_session_has_a_greatest_length(is_detached: bool) -> None:
    deadlines = deadlines_of(max_session_s=100, idle_timeout_s=0)
    assert over(deadlines, 99.0, is_detached=is_detached) is None
    assert over(deadlines, 101.0, is_detached=is_detached) == "SESSION_LIMIT"


def test_a_draining_session_ends_after_its_turn() -> None:
    progress = Progress(turn_open=True)
    deadlines = deadlines_of(progress)
    deadlines.drain(GOING_DOWN)
    assert over(deadlines, 1.0) is None
    progress.turn_open = False
    assert over(deadlines, 1.0) == "SERVER_SHUTDOWN"


def test_a_draining_session_hears_what_it_was_sent_before() -> None:
    progress = Progress(received=SAMPLE_RATE)
    deadlines = deadlines_of(progress)
    deadlines.drain(GOING_DOWN)
    assert over(deadlines, 1.0) is None
    progress.done = SAMPLE_RATE
    assert over(deadlines, 1.0) == "SERVER_SHUTDOWN"


def test_a_session_that_is_to_end_and_does_not_is_ended() -> None:
    deadlines = deadlines_of(drain_s=30)
    deadlines.end(GOING_DOWN, 1.0)
    deadlines.end(SessionError("too late"), 2.0)
    assert overdue(deadlines, 15.0) is None
    assert overdue(deadlines, 17.0) is GOING_DOWN


def test_a_session_that_cannot_be_finished_is_given_up() -> None:
    progress = Progress()
    deadlines = deadlines_of(progress)
    deadlines.finish(1.0)
    progress.done_at = 50.0
    assert overdue(deadlines, 49.0 + FINISH_STALL_S) is None
    error = overdue(deadlines, 51.0 + FINISH_STALL_S)
    assert error is not None
    assert error.code == "INTERNAL_ERROR"


def test_the_key_must_come_in_time() -> None:
    deadlines = deadlines_of(handshake_s=5)
    assert deadlines.overdue(4.0, waits_for_key=True) is None
    assert deadlines.overdue(6.0, waits_for_key=False) is None
    error = deadlines.overdue(6.0, waits_for_key=True)
    assert error is not None
    assert error.code == "UNAUTHORIZED"


def test_a_turn_stalls_once_all_of_it_is_decoded() -> None:
    progress = Progress(turn_open=True, received=SAMPLE_RATE)
    deadlines = deadlines_of(progress)
    deadlines.took_audio(1.0)
    assert not deadlines.has_stalled(10.0, 1.2)
    progress.done, progress.done_at = SAMPLE_RATE, 5.0
    assert not deadlines.has_stalled(6.0, 1.2)
    assert deadlines.has_stalled(6.3, 1.2)
    assert not deadlines.has_stalled(6.3, 0.0)


@pytest.mark.parametrize("why", ["closed", "finishing", "just back"])
def test_what_cannot_stall(why: str) -> None:
    deadlines = deadlines_of(Progress(turn_open=why != "closed"))
    if why == "finishing":
        deadlines.finish(0.0)
    if why == "just back":
        deadlines.came_back(9.5)
    assert not deadlines.has_stalled(10.0, 1.2)


def test_a_backlog_is_told_now_and_then() -> None:
    progress = Progress(received=20 * SAMPLE_RATE)
    deadlines = deadlines_of(progress)
    assert deadlines.backlog_to_tell(1.0) == 20.0
    assert deadlines.backlog_to_tell(2.0) is None
    assert deadlines.backlog_to_tell(1.0 + BACKLOG_WARNING_S) == 20.0
    progress.done = 19 * SAMPLE_RATE
    assert deadlines.backlog_to_tell(100.0) is None


def test_lag_is_observed_once_a_second() -> None:
    deadlines = deadlines_of(Progress(received=SAMPLE_RATE))
    assert [deadlines.lag_to_observe(now / 4) for now in range(1, 9)] == [
        *[None] * 3,
        1.0,
        *[None] * 3,
        1.0,
    ]
