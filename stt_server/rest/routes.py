"""The REST interface as the app needs it."""

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from stt_server.files.transcription import Files
from stt_server.rest.frontier import Frontier
from stt_server.rest.models import Models
from stt_server.rest.transcriptions import Transcriptions
from stt_server.service import Service


class Rest:
    """Everything under `/v1` that is no WebSocket."""

    def __init__(self, service: Service) -> None:
        self._files = Files(
            service.engine, service.final_engine, service.admission, service.settings
        )
        models = Models(service)
        transcriptions = Transcriptions(service, self._files)
        self.routes: list[BaseRoute] = [
            Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
            Route("/v1/models", models.list),
            Route("/v1/models/{id:path}", models.retrieve),
        ]
        self.middleware = Middleware(Frontier, service=service)

    async def close(self) -> None:
        """End the processes that read files."""
        await self._files.close()
