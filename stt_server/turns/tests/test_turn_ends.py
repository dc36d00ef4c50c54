"""What follows from pauses and judgements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stt_server.settings import DetectorName, EndpointingMode, EndpointingSettings
from stt_server.turns.turn_ends import Step, TurnEnds

THRESHOLDS = {"turn_threshold": 0.6, "eager_threshold": 0.3}


def ends_with(
    detector: str = "smart-turn", *, eager: bool = False, mode: str = "vad", paused: bool = True
) -> TurnEnds:
    settings = {"detector": detector, "eager": eager, "mode": mode, **THRESHOLDS}
    ends = TurnEnds(EndpointingSettings.model_validate(settings))
    if paused:
        ends.pause(100)
    return ends


def test_detector_that_is_sure_enough_ends_the_turn() -> None:
    assert ends_with().decide(0.6) is Step.END


@pytest.mark.parametrize("sureness", [0.59, 0.0, None])
def test_detector_that_is_not_lets_it_go_on(sureness: float | None) -> None:
    assert ends_with().decide(sureness) is Step.GO_ON


def test_half_sure_detector_makes_an_eager_end_once_per_pause() -> None:
    ends = ends_with(eager=True)

    assert [ends.decide(one) for one in (0.29, None, 0.3, 0.5)] == [
        Step.GO_ON,
        Step.GO_ON,
        Step.TELL_EAGER_END,
        Step.GO_ON,
    ]
    ends.pause(200)
    assert ends.decide(0.5) is Step.TELL_EAGER_END


def test_turn_may_end_after_its_eager_end() -> None:
    ends = ends_with(eager=True)
    ends.decide(0.5)

    assert ends.decide(0.9) is Step.END


def test_without_a_detector_every_pause_is_an_eager_end() -> None:
    ends = ends_with("silence", eager=True)

    assert not ends.asks
    assert ends.decide(None) is Step.TELL_EAGER_END


def test_without_detector_and_eager_ends_pauses_have_no_consequence() -> None:
    ends = ends_with("silence")

    assert (ends.acts, ends.decide(None)) == (False, Step.GO_ON)


@pytest.mark.parametrize("detector", list(DetectorName))
def test_where_only_the_client_ends_turns_nothing_else_does(detector: str) -> None:
    ends = ends_with(detector, eager=True, mode="none")

    assert (ends.acts, ends.asks) == (False, False)
    assert ends.decide(1.0) is Step.GO_ON


def test_detector_chosen_during_a_pause_is_not_asked_before_the_next() -> None:
    ends = ends_with("eou")
    ends.configure(EndpointingSettings(detector=DetectorName.SMART_TURN))
    assert not ends.asks
    assert ends.decide(1.0) is Step.GO_ON

    ends.pause(200)
    assert ends.asks
    assert ends.decide(1.0) is Step.END


def test_other_thresholds_count_at_once() -> None:
    ends = ends_with("eou")
    ends.configure(EndpointingSettings(detector=DetectorName.EOU, turn_threshold=0.1))

    assert ends.decide(0.2) is Step.END


SETTINGS = st.builds(
    EndpointingSettings,
    mode=st.sampled_from(EndpointingMode),
    detector=st.sampled_from(DetectorName),
    eager=st.booleans(),
    turn_threshold=st.floats(0.01, 1.0),
    eager_threshold=st.floats(0.0, 1.0),
)
SURENESS = st.none() | st.floats(0.0, 1.0)


@given(SETTINGS, st.lists(SURENESS | st.just("pause") | SETTINGS))
def test_steps_keep_to_the_settings(
    settings: EndpointingSettings, events: list[float | str | EndpointingSettings | None]
) -> None:
    ends = TurnEnds(settings)
    can_tell = False
    for event in events:
        if isinstance(event, EndpointingSettings):
            settings = event
            ends.configure(settings)
        elif isinstance(event, str):
            ends.pause(0)
            can_tell = True
        else:
            step = ends.decide(event)
            if step is not Step.GO_ON:
                assert settings.mode is EndpointingMode.VAD
            if step is Step.END:
                assert settings.detector is not DetectorName.SILENCE
                assert event is not None
                assert event >= settings.turn_threshold
            if step is Step.TELL_EAGER_END:
                assert settings.eager
                assert can_tell
                can_tell = False
                if settings.detector is not DetectorName.SILENCE:
                    assert event is not None
                    assert event >= settings.eager_threshold
