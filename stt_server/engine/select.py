"""From settings to the engine that serves them."""

from stt_server.engine.base import StreamingEngine
from stt_server.settings import EngineName, Settings


def make_engine(settings: Settings) -> StreamingEngine:
    """The engine the settings name; `auto` takes the best one that can run here."""
    match settings.model:
        case EngineName.SCRIPTED:
            from stt_server.engine.fake import ScriptedEngine

            return ScriptedEngine()
        case EngineName.POCKETSPHINX | EngineName.AUTO:
            from stt_server.engine.pocketsphinx import PocketsphinxEngine

            return PocketsphinxEngine(settings.pocketsphinx)
