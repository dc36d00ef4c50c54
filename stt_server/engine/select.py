"""From settings to the engines that serve them."""

import logging
from typing import TYPE_CHECKING

from stt_server.engine.auto import resolve_auto
from stt_server.engine.base import SegmentEngine, StreamingEngine, missing_package
from stt_server.settings import EngineName, FinalModelName, Settings

if TYPE_CHECKING:
    from stt_server.engine.nemo import NemoEngine

logger = logging.getLogger(__name__)


def make_engine(settings: Settings) -> StreamingEngine | SegmentEngine:
    """The engine the settings name; `auto` takes the best one that can run here."""
    _warn_of_unused_checkpoint(settings)
    match settings.model:
        case EngineName.SCRIPTED:
            from stt_server.engine.fake import ScriptedEngine

            return ScriptedEngine()
        case EngineName.CANARY_QWEN:
            return _canary_qwen(settings)
        case (
            EngineName.PARAKEET_EOU
            | EngineName.FASTCONFORMER_MULTI
            | EngineName.NEMOTRON_EN
            | EngineName.NEMOTRON_MULTI
        ):
            return _nemo(settings)
        case EngineName.AUTO:
            return make_engine(resolve_auto(settings))
        case EngineName.POCKETSPHINX:
            from stt_server.engine.pocketsphinx import PocketsphinxEngine

            if settings.device not in ("auto", "cpu") and settings.final_model is None:
                logger.warning(
                    "device.ignored",
                    extra={"device": settings.device, "why": "pocketsphinx runs on the CPU"},
                )
            return PocketsphinxEngine(settings.pocketsphinx)


def _warn_of_unused_checkpoint(settings: Settings) -> None:
    own = {
        EngineName.POCKETSPHINX: "it has its own model",
        EngineName.CANARY_QWEN: "its setting is canary_qwen.checkpoint",
        EngineName.SCRIPTED: "it has no model",
    }
    if settings.nemo.checkpoint is not None and settings.model in own:
        logger.warning(
            "checkpoint.ignored",
            extra={
                "checkpoint": settings.nemo.checkpoint,
                "why": f"{settings.model} does not use nemo.checkpoint: {own[settings.model]}",
            },
        )


def make_final_engine(settings: Settings) -> SegmentEngine | None:
    """The engine that makes the finals beside the one of `make_engine`; None if that makes them."""
    match settings.final_model:
        case None:
            return None
        case FinalModelName.CANARY_QWEN:
            return _canary_qwen(settings)


def make_eou_engine(settings: Settings) -> StreamingEngine | None:
    """The model that hears turns for its `<EOU>` token beside the main one; None if none is set."""
    if settings.eou_model is None:
        return None
    own = {
        "model": EngineName(settings.eou_model),
        "nemo": settings.nemo.model_copy(update={"checkpoint": settings.eou_checkpoint}),
        "decoder": None,
        "lookahead_ms": None,
    }
    return _nemo(settings.model_copy(update=own))


def _canary_qwen(settings: Settings) -> SegmentEngine:
    from stt_server.engine.canary_qwen import CanaryQwenEngine

    return CanaryQwenEngine(settings)


def _nemo(settings: Settings) -> StreamingEngine:
    if settings.device not in ("auto", "cuda"):
        return _on_one_device(settings)
    from stt_server.engine.nemo_pool import NemoPool

    def make() -> "list[NemoEngine]":
        """On every device that the setting stands for."""
        return [_on_one_device(own) for own in device_settings(settings)]

    return NemoPool(make, _on_one_device(settings).info, gating=settings.nemo.gating)


def _on_one_device(settings: Settings) -> "NemoEngine":
    from nemo_lite.registry import find
    from stt_server.engine.nemo import NemoEngine
    from stt_server.engine.nemo_source import MOST_STREAMS, NemoSource

    entry = find(settings.model)
    return NemoEngine(
        NemoSource(settings),
        name=entry.name,
        summary=f"{entry.name} ({entry.description}): live",
        most_streams=settings.max_streams or MOST_STREAMS,
        tick_s=settings.nemo.tick_ms / 1_000,
        gating=settings.nemo.gating,
    )


def device_settings(settings: Settings) -> list[Settings]:
    """For each device that `settings.device` stands for, with its part of `max_streams`.

    Raises:
        EngineUnavailable: there is no such device, or no torch.
    """
    try:
        from stt_server.engine.torch_device import choose_devices
    except ImportError as error:
        raise missing_package(settings.model.value, error) from error

    devices = choose_devices(settings.device)
    total, count = settings.max_streams, len(devices)
    return [
        settings.model_copy(
            update={
                "device": str(device),
                # The first ones take what is left over.
                "max_streams": total and max(1, (total + count - 1 - index) // count),
            }
        )
        for index, device in enumerate(devices)
    ]
