"""`GET /v1/models`: what is loaded, and what else there is."""

import time
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nemo_lite.registry import REGISTRY, ModelEntry
from stt_server.engine.base import EngineInfo
from stt_server.refusals import http_error
from stt_server.service import Service

Json: TypeAlias = dict[str, Any]
FRAME_MS = 80
LICENCES = {"pocketsphinx": "BSD-2-Clause"}


class Models:
    """Handlers of the routes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = int(time.time())

    async def list(self, _: Request) -> Response:
        """All of them, the loaded ones first."""
        return JSONResponse({"object": "list", "data": list(self._models().values())})

    async def retrieve(self, request: Request) -> Response:
        """One of them, by its name or by its id on the hub."""
        wanted = request.path_params["id"]
        for model in self._models().values():
            if wanted in (model["id"], model.get("repository")):
                return JSONResponse(model)
        message = f"there is no model {wanted[:100]!r}"
        return http_error(404, "model_not_found", message, param="model")

    def _models(self) -> dict[str, Json]:
        service = self._service
        engines = [service.engine, *([service.final_engine] if service.final_engine else [])]
        models = {engine.info.name: self._loaded(engine.info) for engine in engines}
        others = (entry for entry in REGISTRY.values() if entry.name not in models)
        return models | {entry.name: self._known(entry) | {"loaded": False} for entry in others}

    def _loaded(self, info: EngineInfo) -> Json:
        entry = REGISTRY.get(info.name)
        if entry is not None and not self._is_replaced(entry):
            return self._known(entry) | {"loaded": True}
        facts: Json = {"description": info.summary, "loaded": True}
        if info.lookaheads_ms:
            facts["lookaheads_ms"] = list(info.lookaheads_ms)
        if info.name in LICENCES:
            facts["licence"] = LICENCES[info.name]
        return self._model(info.name, "stt-server") | facts

    def _known(self, entry: ModelEntry) -> Json:
        return self._model(entry.name, entry.repo.partition("/")[0]) | {
            "description": entry.description,
            "repository": entry.repo,
            "licence": entry.licence,
            "languages": list(entry.languages),
            "abilities": sorted(entry.features),
            "lookaheads_ms": [frames * FRAME_MS for frames in entry.lookaheads],
        }

    def _model(self, name: str, owner: str) -> Json:
        return {"id": name, "object": "model", "created": self._started, "owned_by": owner}

    def _is_replaced(self, entry: ModelEntry) -> bool:
        """The name stands for another checkpoint, of which the registry knows nothing."""
        settings = self._service.settings
        if entry.loader == "salm":
            return settings.canary_qwen.checkpoint != entry.name
        return settings.nemo.checkpoint is not None
