"""From settings to the engine that serves them."""

import logging

from stt_server.engine.base import StreamingEngine
from stt_server.settings import Device, EngineName, Settings

logger = logging.getLogger(__name__)


def make_engine(settings: Settings) -> StreamingEngine:
    """The engine the settings name; `auto` takes the best one that can run here."""
    match settings.model:
        case EngineName.SCRIPTED:
            from stt_server.engine.fake import ScriptedEngine

            return ScriptedEngine()
        case EngineName.POCKETSPHINX | EngineName.AUTO:
            from stt_server.engine.pocketsphinx import PocketsphinxEngine

            if settings.device is Device.CUDA:
                logger.warning(
                    "device.ignored", extra={"device": "cuda", "why": "pocketsphinx needs no GPU"}
                )
            return PocketsphinxEngine(settings.pocketsphinx)
