"""When a service counts as ready, with engines on a script."""

import json
import sys
from dataclasses import replace

import pytest
from starlette.requests import Request

from stt_server.app import Endpoints
from stt_server.engine.base import EngineUnavailable
from stt_server.engine.detectors import Detectors
from stt_server.engine.fake import Script, ScriptedEngine, ScriptedSegmentEngine
from stt_server.service import Service, State
from stt_server.settings import DetectorName, EngineName, Settings

SETTINGS = Settings(model=EngineName.SCRIPTED)


class FaultyEngine(ScriptedSegmentEngine):
    """Notices its faults by itself. A `SupervisedEngine`."""

    fault: str | None = None

    async def check(self) -> None:
        if self.fault is not None:
            raise RuntimeError(self.fault)


def ready_service(
    engine: ScriptedEngine | FaultyEngine, final_engine: FaultyEngine | None = None
) -> Service:
    service = Service(SETTINGS, engine, final_engine)
    service.state = State.READY
    return service


async def test_fault_of_the_recogniser_shows_at_once_and_ends_with_it() -> None:
    engine = FaultyEngine()
    service = ready_service(engine)
    assert await service.not_ready_reason() is None

    engine.fault = "the recogniser is being restarted"
    assert await service.not_ready_reason() == engine.fault

    engine.fault = None
    assert await service.not_ready_reason() is None


async def test_recogniser_that_fails_its_check_is_not_ready() -> None:
    class Broken(FaultyEngine):
        async def check(self) -> None:
            raise RuntimeError("hears nothing")

    assert await ready_service(Broken()).not_ready_reason() == "the model does not answer"


async def test_sessions_are_served_without_the_second_recogniser_and_the_operator_sees_it() -> None:
    final = FaultyEngine()
    service = ready_service(ScriptedEngine(), final)
    endpoints, request = Endpoints(service), Request({"type": "http"})
    assert b"degraded" not in (await endpoints.ready(request)).body
    assert b'stt_model_serving{model="scripted"} 1.0' in service.metrics.render()

    final.fault = "the recogniser is being restarted"

    answer = await endpoints.ready(request)
    assert answer.status_code == 200
    assert json.loads(answer.body)["degraded"] == "scripted: the recogniser is being restarted"
    assert b'stt_model_serving{model="scripted"} 0.0' in service.metrics.render()


async def test_segment_recogniser_without_strops_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("stt_server.stages.segment_asr", "stt_server.turns.segments"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "strops", None)
    service = Service(SETTINGS, ScriptedSegmentEngine())

    try:
        with pytest.raises(EngineUnavailable, match=r"needs strops: pip install \./strops-rs"):
            await service.load()
    finally:
        await service.close()
    assert service.state is State.FAILED


@pytest.mark.parametrize(("limit", "capacity"), [(None, 4_096), (3, 3)])
def test_streaming_recogniser_sets_the_capacity(limit: int | None, capacity: int) -> None:
    settings = Settings.model_validate({"model": "scripted", "limits": {"max_sessions": limit}})

    service = Service(settings, ScriptedEngine(), ScriptedSegmentEngine())

    assert service.admission.capacity == capacity


async def test_capacity_follows_the_recogniser_up_to_the_limit() -> None:
    settings = Settings.model_validate({"model": "scripted", "limits": {"max_sessions": 6}})
    engine = ScriptedEngine()
    service = Service(settings, engine)
    for places, capacity in ((8, 6), (4, 4), (0, 0), (8, 6)):
        engine.info = replace(engine.info, capacity=places)
        assert service.admission.capacity == capacity
        assert f"stt_capacity {capacity}.0".encode() in service.metrics.render()


# Ends of turns

SURE = Script(turn_ends={"fox": 0.9})


class AllHearingEngine(ScriptedEngine):
    """Wants the audio between turns, too."""

    hears_silence = True


class SideEngine(ScriptedEngine):
    """Notices its faults by itself."""

    fault: str | None = None


def test_what_may_end_turns_is_what_the_models_can_tell() -> None:
    assert Service(SETTINGS, ScriptedEngine()).detectors == {"silence"}
    assert Service(SETTINGS, ScriptedEngine(SURE)).detectors == {"silence", "eou"}
    side = Detectors(DetectorName.SILENCE, side_model=ScriptedEngine(SURE))
    assert Service(SETTINGS, ScriptedEngine(), detectors=side).detectors == {"silence", "eou"}


def test_eager_ends_need_a_model_that_knows_its_finals_ahead() -> None:
    assert Service(SETTINGS, ScriptedEngine()).is_eager
    assert not Service(SETTINGS, ScriptedEngine(), ScriptedSegmentEngine()).is_eager
    assert not Service(SETTINGS, ScriptedSegmentEngine()).is_eager
    assert not Service(SETTINGS, AllHearingEngine()).is_eager


async def test_what_may_end_turns_is_logged_in_plain_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    detectors = Detectors(DetectorName.SILENCE)
    service = Service(SETTINGS, ScriptedEngine(SURE), detectors=detectors)
    try:
        await service.load()
    finally:
        await service.close()

    (ready,) = [record for record in caplog.records if record.message == "model.ready"]
    assert str(vars(ready)["detectors"]) == "['eou', 'silence']"


async def test_default_detector_that_is_absent_ends_the_start() -> None:
    service = Service(SETTINGS, ScriptedEngine(), detectors=Detectors(DetectorName.EOU))

    try:
        with pytest.raises(EngineUnavailable, match="eou"):
            await service.load()
    finally:
        await service.close()
    assert service.state is State.FAILED


async def test_side_model_at_fault_is_shown_and_keeps_nobody_out() -> None:
    side = SideEngine(SURE)
    detectors = Detectors(DetectorName.SILENCE, side_model=side)
    service = Service(SETTINGS, ScriptedEngine(), detectors=detectors)
    service.state = State.READY
    assert (await service.not_ready_reason(), service.degraded_reason) == (None, None)

    side.fault = "it is being restarted"

    assert await service.not_ready_reason() is None
    assert service.degraded_reason == "scripted: it is being restarted"
