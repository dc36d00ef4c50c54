"""Which recogniser `--model auto` is on this machine. It never downloads: what is not here already
cannot be chosen."""

import importlib.util
import logging
from collections.abc import Collection

from nemo_lite import hub
from nemo_lite.errors import DownloadError
from nemo_lite.registry import find
from stt_server.engine.base import MODEL_PACKAGES
from stt_server.settings import EngineName, FinalModelName, ModelSettings, Settings

logger = logging.getLogger(__name__)

SMALL, LARGE, FINAL = EngineName.PARAKEET_EOU, EngineName.NEMOTRON_EN, EngineName.CANARY_QWEN
ROOM_FOR_BOTH = find(LARGE).size_bytes + 2 * find(FINAL).size_bytes
"""Free bytes of a GPU on which the large model and Canary-Qwen run together."""


def resolve_auto(settings: Settings) -> Settings:
    """`settings` with the recogniser that `auto` stands for; the log says which, and why.

    Raises:
        EngineUnavailable: the device that the settings name is not here.
    """
    if settings.model is not EngineName.AUTO:
        return settings
    here = {name for name in (SMALL, LARGE, FINAL) if _is_here(name, settings.models)}
    has_torch = importlib.util.find_spec("torch") is not None
    model, final = EngineName.POCKETSPHINX, None
    if settings.nemo.checkpoint is not None:
        model = SMALL  # it gives the checkpoint its name
    elif has_torch and here & {SMALL, LARGE}:
        model, final = choose(here, free_gpu_bytes=_free_gpu_bytes(settings.device))
    if model is EngineName.POCKETSPHINX:
        steps = [] if has_torch else [MODEL_PACKAGES]
        steps += [] if SMALL in here else [f"stt-server models pull {SMALL}"]
        why = f"no suitable model is on this machine; for one: {' && '.join(steps)}"
        why += "" if has_torch else " (see README, Install)"
        logger.warning("model.fallback", extra={"model": model.value, "why": why})
    else:
        extra = {"final_model": final.value} if final else {}
        logger.info("model.chosen", extra={"model": model.value, **extra})
    return settings.model_copy(
        update={"model": model, "final_model": settings.final_model or final}
    )


def choose(
    here: Collection[EngineName], *, free_gpu_bytes: int | None
) -> tuple[EngineName, FinalModelName | None]:
    """The recogniser, and the one for finals, among those whose checkpoint is here.

    Args:
        here: of `SMALL`, `LARGE` and `FINAL`.
        free_gpu_bytes: memory of the device; None on the CPU, which is too slow for the large ones.
    """
    if free_gpu_bytes is not None and LARGE in here:
        has_final = FINAL in here and free_gpu_bytes >= ROOM_FOR_BOTH
        return LARGE, FinalModelName.CANARY_QWEN if has_final else None
    return SMALL if SMALL in here else EngineName.POCKETSPHINX, None


def _is_here(name: EngineName, settings: ModelSettings) -> bool:
    try:
        return hub.cached(name, cache_dir=settings.cache_dir) is not None
    except DownloadError:  # no home folder, so no cache
        return False


def _free_gpu_bytes(device: str) -> int | None:
    import torch

    from stt_server.engine.torch_device import choose_device

    chosen = choose_device(device)
    return torch.cuda.mem_get_info(chosen)[0] if chosen.type == "cuda" else None
