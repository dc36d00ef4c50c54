"""When a service counts as ready, with engines on a script."""

import pytest

from stt_server.engine.fake import ScriptedEngine, ScriptedSegmentEngine
from stt_server.service import Service, State
from stt_server.settings import EngineName, Settings

SETTINGS = Settings(model=EngineName.SCRIPTED)


class FaultyEngine(ScriptedSegmentEngine):
    """Notices its faults by itself. A `SupervisedEngine`."""

    fault: str | None = None

    async def check(self) -> None:
        if self.fault is not None:
            raise RuntimeError(self.fault)


def ready_service(final_engine: FaultyEngine) -> Service:
    service = Service(SETTINGS, ScriptedEngine(), final_engine)
    service.state = State.READY
    return service


async def test_service_is_ready_when_both_recognisers_are() -> None:
    assert await ready_service(FaultyEngine()).not_ready_reason() is None


async def test_fault_of_a_recogniser_shows_at_once_and_ends_with_it() -> None:
    engine = FaultyEngine()
    service = ready_service(engine)
    assert await service.not_ready_reason() is None

    engine.fault = "the recogniser is being restarted"
    assert await service.not_ready_reason() == engine.fault

    engine.fault = None
    assert await service.not_ready_reason() is None


async def test_both_recognisers_are_checked() -> None:
    class Broken(ScriptedSegmentEngine):
        async def check(self) -> None:
            raise RuntimeError("hears nothing")

    service = Service(SETTINGS, ScriptedEngine(), Broken())
    service.state = State.READY

    assert await service.not_ready_reason() == "the model does not answer"


@pytest.mark.parametrize(("limit", "capacity"), [(None, 4_096), (3, 3)])
def test_streaming_recogniser_sets_the_capacity(limit: int | None, capacity: int) -> None:
    settings = Settings.model_validate({"model": "scripted", "limits": {"max_sessions": limit}})

    service = Service(settings, ScriptedEngine(), ScriptedSegmentEngine())

    assert service.admission.capacity == capacity
