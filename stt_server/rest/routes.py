"""The REST interface as the app needs it."""

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from stt_server.files.transcription import Files
from stt_server.protocols.realtime_session import Terms
from stt_server.rest.client_secrets import ClientSecretRoutes
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
        terms = Terms(service.engine.info.name, service.settings.endpointing)
        secrets = ClientSecretRoutes(service.authenticator, terms)
        transcriptions = Transcriptions(service, self._files)
        self.routes: list[BaseRoute] = [
            Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
            Route("/v1/models", models.list),
            Route("/v1/models/{id:path}", models.retrieve),
            Route("/v1/realtime/client_secrets", secrets.create, methods=["POST"]),
            Route("/v1/realtime/transcription_sessions", secrets.create_flat, methods=["POST"]),
        ]
        self.middleware = Middleware(Frontier, service=service)

    def warm_up(self) -> None:
        """Have a process that reads files ready before the first one comes."""
        self._files.warm_up()

    async def close(self) -> None:
        """End the processes that read files."""
        await self._files.close()
